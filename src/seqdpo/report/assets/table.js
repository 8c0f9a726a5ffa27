"use strict";
let table = null;

const esc = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function excerpt(cell) {
  const text = textOf(report.view.objective, cell.getRow().getData().row);
  return element("span", { className: "text-line", textContent: text ? text.prompt.slice(-160) : "(text not on this page)", dir: "auto" });
}

function columns() {
  const number = (title, field, digits) => ({ title, field, sorter: "number", hozAlign: "right", headerHozAlign: "right", width: title.length > 8 ? 128 : 106,
    sorterParams: { alignEmptyValues: "bottom" }, formatter: (cell) => signed(cell.getValue(), digits) });
  const slices = Object.keys(report.data.objectives[report.view.objective].slices);
  const titles = report.data.titles;
  return [ // what a phone shows without scrolling comes first
    number(titles.change, "change"), { title: "outcome", field: "flip", width: 104 },
    { title: "prompt (its end)", field: "row", formatter: excerpt, minWidth: isNarrow() ? 160 : 300, headerSort: false, cssClass: "text" },
    number(titles.before, "before"), number(titles.after, "after"), { title: "quartile", field: "quartile", width: 104 },
    number("chosen Δ", "chosen_change"), number("rejected Δ", "rejected_change"),
    ...slices.slice(0, 3).map((name, i) => ({ title: esc(name), field: `slice${i}`, width: 130, formatter: "plaintext" })),
    { title: "id", field: "id", width: 176, formatter: "plaintext" },
  ];
}

function matches() {
  const flips = new Set(chosenFlips());
  const quartile = byId("quartile").value;
  const [slice, value] = byId("slice").value ? JSON.parse(byId("slice").value) : [null, null];
  const words = byId("search").value.trim().toLowerCase();
  const area = report.brush;
  const objective = report.view.objective;
  return (row) => (row.flip === null || flips.has(row.flip))
    && (!quartile || row.quartile === quartile)
    && (slice === null || row[slice] === value)
    && (!area || (row.before >= area.before[0] && row.before <= area.before[1] && row.after >= area.after[0] && row.after <= area.after[1]))
    && (!words || searchable(objective, row.row).includes(words));
}

function refilter() {
  const kept = report.rows.filter(matches());
  report.shown = kept;
  table.setData(kept);
  const count = (flip) => kept.filter((row) => row.flip === flip).length;
  byId("count").textContent = `${kept.length.toLocaleString("en")} of ${report.rows.length.toLocaleString("en")} pairs: `
    + (report.view.from_base ? "the base has no margin, so none flips" : FLIPS.map((flip) => `${flip} ${count(flip).toLocaleString("en")}`).join(", "));
  byId("clear-brush").hidden = !report.brush;
  writeAddress();
}

function makeTable() {
  return new Promise((done) => {
    if (table) table.destroy();
    table = new Tabulator(byId("table"), {
      data: [], columns: columns(), height: 440, layout: "fitDataFill", index: "row", nestedFieldSeparator: false,
      initialSort: [{ column: "change", dir: "asc" }], placeholder: "No pair fits these filters.", selectableRows: false,
      columnDefaults: { headerHozAlign: "left" },
    });
    table.on("rowClick", (_, row) => openCard(row.getData().row));
    table.on("dataSorted", rememberSort);
    table.on("tableBuilt", done);
  });
}

// "" while the worst come first, as they do unless the reader asks for another order.
function rememberSort(sorters) {
  const [sorter] = sorters;
  const asked = sorter ? `${sorter.field}:${sorter.dir}` : WORST_FIRST;
  const sort = asked === WORST_FIRST ? "" : asked;
  if (sort === report.sort) return; // every filter sorts anew
  report.sort = sort;
  writeAddress();
}

const sortedRows = () => table.getRows("active").map((row) => row.getData().row);
