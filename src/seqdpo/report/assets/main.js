"use strict";

// A view that the reader went to.
async function goTo(view, flips = FLIPS) {
  leaveBehind();
  await show(view, false, flips);
}

async function show(view, keepFilters = false, flips = FLIPS) {
  report.view = view;
  report.rows = rowsOf(view);
  report.brush = null;
  byId("view").value = String(report.data.views.indexOf(view));
  byId("cell-name").textContent = viewName(view);
  const objective = report.data.objectives[view.objective];
  byId("text-note").textContent = objective.n_texts < objective.n
    ? `All numbers of ${objective.n.toLocaleString("en")} pairs; texts of ${objective.n_texts.toLocaleString("en")}: those that flipped, and a sample.` : "";
  fillSlices(objective);
  byId("filters").querySelector("fieldset").hidden = view.from_base;
  if (!keepFilters) clearFilters(flips);
  await makeTable();
  refilter();
  const charts = view.charts ?? (view.cell === null ? [] : report.data.cells[view.cell].charts);
  const [beside] = await drawAll(byId("pair-chart"), charts.filter(isBrushed), report.rows);
  await drawAll(byId("cell-charts"), charts.filter((chart) => !isBrushed(chart)), report.rows);
  if (!charts.length) byId("cell-charts").append(element("p", { className: "dim", textContent: "This stage taught the objective, or came before it was taught: there is nothing learned to lose, so only its pairs are shown." }));
  report.scatter = beside;
  if (beside) {
    let waiting = null;
    beside.addSignalListener("brush", (_, area) => {
      report.brush = area.before && area.after ? { before: [...area.before].sort((a, b) => a - b), after: [...area.after].sort((a, b) => a - b) } : null;
      clearTimeout(waiting);
      waiting = setTimeout(refilter, 120);
    });
  }
}

// Draws the rectangle of an area that came from the address; the table follows it.
async function drawArea(area) {
  if (!report.scatter) return;
  const [x, y] = ["x", "y"].map((name) => report.scatter.scale(name));
  await report.scatter.signal("brush_x", area.before.map(x)).signal("brush_y", area.after.map(y)).runAsync();
}

function fillSlices(objective) {
  const select = byId("slice");
  select.replaceChildren(element("option", { value: "", textContent: "all" }));
  Object.entries(objective.slices).forEach(([name, values], i) => {
    for (const value of [...new Set(values)].filter((v) => v !== null).sort().slice(0, 40))
      select.append(element("option", { value: JSON.stringify([`slice${i}`, value]), textContent: `${name}: ${value}` }));
  });
}

function chooseFlips(names) {
  document.querySelectorAll("input[name=flip]").forEach((box) => { box.checked = names.includes(box.value); });
}

function clearFilters(flips) {
  chooseFlips(flips);
  for (const id of ["quartile", "slice", "search"]) byId(id).value = "";
}

async function restore(state) {
  if (state.flip !== undefined) chooseFlips(state.flip.split(","));
  const [field, direction] = (state.sort ?? "").split(":");
  if (columns().some((column) => column.field === field) && ["asc", "desc"].includes(direction)) table.setSort(field, direction);
  byId("quartile").value = state.q ?? "";
  byId("slice").value = state.slice ?? "";
  byId("search").value = state.search ?? "";
  if (state.area) {
    const [a, b, c, d] = state.area.split(",").map(Number);
    if ([a, b, c, d].every(Number.isFinite)) {
      report.brush = { before: [a, b], after: [c, d] };
      await drawArea(report.brush);
    }
  }
  refilter();
  blur(state.text !== "1" && document.body.dataset.blurred === "true");
  const row = state.pair ? report.data.objectives[report.view.objective].ids.indexOf(state.pair) : -1;
  if (row >= 0) openCard(row);
  else byId("card").close();
}

// Where the browser's back and forward buttons lead.
async function goBack() {
  const state = readAddress();
  if (state.objective === undefined) return; // a section of the page
  await show(viewOf(state));
  await restore(state);
}

function viewOf(state) {
  const views = report.data.views;
  const fits = (view) => view.objective === state.objective && view.to === state.to
    && (state.seed === undefined || String(view.seed) === state.seed) && (state.from === undefined || view.from === state.from);
  return views.find(fits) ?? views[0];
}

function listen() {
  byId("view").addEventListener("change", (event) => goTo(report.data.views[Number(event.target.value)]));
  window.addEventListener("popstate", goBack);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", (event) => { if (event.target.id === "show-text") blur(!event.target.checked); else refilter(); });
  byId("clear-brush").addEventListener("click", () => {
    report.brush = null;
    if (report.scatter) report.scatter.signal("brush_x", []).signal("brush_y", []).run();
    refilter();
  });
  byId("export").addEventListener("click", exportNotes);
  byId("card").addEventListener("close", () => { report.open = null; writeAddress(); });
  document.querySelectorAll("[data-view]").forEach((button) => button.addEventListener("click", async () => {
    await goTo(report.data.views[Number(button.dataset.view)], button.dataset.flip?.split(","));
    byId("pairs").scrollIntoView();
  }));
  document.querySelectorAll("[data-to]").forEach((button) => button.addEventListener("click", async () => {
    await goTo(viewOf({ objective: button.dataset.objective, to: button.dataset.to, seed: button.dataset.seed }));
    byId("cell").scrollIntoView();
  }));
  document.querySelectorAll("[data-pair]").forEach((button) => button.addEventListener("click", async () => {
    const objective = button.dataset.objective;
    if (report.view.objective !== objective) await show(viewOf({ objective, to: report.data.views.find((view) => view.objective === objective).to }));
    openCard(report.data.objectives[objective].ids.indexOf(button.dataset.pair));
  }));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => { await show(report.view, true); drawRest(); });
}

function blur(on) {
  document.body.classList.toggle("blurred", on);
  byId("show-text").checked = !on;
  writeAddress();
}

async function drawRest() {
  if (byId("remedies-charts")) await drawAll(byId("remedies-charts"), report.data.remedies, null);
  if (byId("overview-charts")) await drawAll(byId("overview-charts"), report.data.overview, null);
  if (byId("training-charts")) await drawAll(byId("training-charts"), report.data.training, null);
  if (byId("mechanism-charts")) await drawAll(byId("mechanism-charts"), report.data.mechanism, null);
}

async function start() {
  const state = readAddress();
  report.data = await unpacked();
  report.data.views.forEach((view, i) => byId("view").append(element("option", { value: String(i), textContent: viewName(view) })));
  document.body.dataset.blurred = document.body.classList.contains("blurred");
  byId("show-text").checked = !document.body.classList.contains("blurred");
  listen();
  if (report.data.views.length) {
    await show(viewOf(state));
    await restore(state);
  }
  document.body.dataset.ready = "true";
  await drawRest();
  document.body.dataset.drawn = "true";
}

// A closed part of the page is no part of a printed one.
const closedParts = () => [...document.querySelectorAll("details:not([open])")];
window.addEventListener("beforeprint", () => { report.closed = closedParts(); report.closed.forEach((part) => { part.open = true; }); });
window.addEventListener("afterprint", () => (report.closed ?? []).forEach((part) => { part.open = false; }));

start();
