"use strict";
const LONGEST_DIFF = 700; // words a side

const noteKey = () => `seqdpo notes ${report.data.run}`;
const notes = () => { try { return JSON.parse(localStorage.getItem(noteKey()) || "{}"); } catch { return report.notes ?? {}; } };
function keep(all) { report.notes = all; try { localStorage.setItem(noteKey(), JSON.stringify(all)); } catch { /* kept in the page */ } }

// Words that the other side does not have in this order, by the longest common subsequence.
function marked(own, other) {
  const [a, b] = [own, other].map((text) => text.split(/(\s+)/));
  if (a.length > 2 * LONGEST_DIFF || b.length > 2 * LONGEST_DIFF) return [own];
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--)
    lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  const parts = [];
  for (let i = 0, j = 0; i < a.length; i++) {
    while (j < b.length && a[i] !== b[j] && lengths[i][j + 1] >= lengths[i + 1][j]) j++;
    if (j < b.length && a[i] === b[j]) { parts.push(a[i]); j++; }
    else parts.push(a[i].trim() ? element("mark", { textContent: a[i] }) : a[i]);
  }
  return parts;
}

function side(title, own, other, tokens, change) {
  return element("div", {}, element("h3", { textContent: title }),
    element("p", { className: "dim", textContent: `${tokens} tokens; ${report.data.measure === "margin" ? "log-probability" : report.data.measure} changed by ${signed(change)} ${report.data.unit}` }),
    element("div", { className: "text", tabIndex: 0, dir: "auto" }, ...marked(own, other)));
}

function trajectoryChart(row) {
  const objective = report.data.objectives[report.view.objective];
  const steps = objective.trajectories[`${report.view.seed}|${report.view.order}`].map((step) => ({
    stage: step.stage, name: step.name, margin: objective.checkpoints[step.key].margin[row], what: step.placebo ? "control stage" : "stage",
  }));
  const encoding = { x: { field: "stage", type: "ordinal", title: "stages trained", axis: { labelAngle: 0 } }, y: { field: "margin", type: "quantitative", title: `${report.data.measure}, ${report.data.unit}` } };
  const named = { color: { field: "what", type: "nominal", title: null, scale: { domain: ["stage", "control stage"], range: ["#0072B2", "#8a8a8a"] } },
    shape: { field: "what", type: "nominal", title: null, scale: { domain: ["stage", "control stage"], range: ["circle", "cross"] } } };
  return { key: "trajectory", title: `Its ${report.data.measure} over the stages`, caption: steps.map((s) => `${s.name}: ${signed(s.margin)}`).join("; "), alt: "",
    spec: { width: "container", height: 150, autosize: { type: "fit-x", contains: "padding" }, data: { name: "steps" }, layer: [
      { mark: { type: "rule", opacity: 0.5 }, data: { values: [{}] }, encoding: { y: { datum: 0 } } },
      { mark: "line", transform: [{ filter: "datum.what === 'stage'" }], encoding },
      { mark: { type: "point", filled: true, size: 60 }, encoding: { ...encoding, ...named } }] },
    data: { steps } };
}

// What the base and the checkpoints of this view's seed answered to the pair's prompt.
function answersTo(view, id) {
  const asked = report.data.objectives[view.objective].answers.filter((one) => one.id === id && (one.checkpoint === "base" || one.seed === view.seed));
  if (!asked.length) return null;
  return element("div", { className: "sides" }, ...asked.map((one) => element("div", {},
    element("h3", { textContent: `${one.checkpoint} answers` }),
    element("p", { className: "dim", textContent: `${one.tokens} tokens${one.refusal ? "; begins like a refusal" : ""}` }),
    element("div", { className: "text", textContent: one.text, tabIndex: 0, dir: "auto" }))));
}

function openCard(row) {
  const view = report.view;
  const objective = report.data.objectives[view.objective];
  const own = report.rows[row];
  const text = textOf(view.objective, row);
  const key = `${view.objective}/${own.id}`;
  const note = notes()[key] ?? { flag: false, note: "" };
  const flag = element("input", { type: "checkbox", checked: note.flag });
  const words = element("textarea", { rows: 2, value: note.note });
  const save = () => keep({ ...notes(), [key]: { flag: flag.checked, note: words.value, from: view.from, to: view.to } });
  flag.addEventListener("change", save); words.addEventListener("input", save);
  const button = (label, act) => { const made = element("button", { type: "button", textContent: label }); made.addEventListener("click", act); return made; };
  const plot = element("div");
  byId("card").replaceChildren(...[
    element("div", { className: "card-top" },
      element("h2", { id: "card-title", textContent: `${own.flip ?? "undefined"}: ${signed(own.before)} to ${signed(own.after)} (${signed(own.change)} ${report.data.unit})` }),
      element("span", {}, button("Previous (k)", () => step(-1)), " ", button("Next (j)", () => step(1)), " ", button("Close", () => byId("card").close()))),
    element("p", { className: "dim", textContent: `${viewName(view)}; pair ${own.id}; quartile ${own.quartile ?? "–"}` }),
    text ? element("h3", { textContent: "Prompt" }) : element("p", { textContent: `The text of this pair is not on this page. seqdpo pairs RUN --objective ${view.objective} --pair ${own.id}` }),
    text ? element("div", { className: "text", textContent: text.prompt, tabIndex: 0, dir: "auto" }) : null,
    text ? element("div", { className: "sides" },
      side("Chosen", text.chosen, text.rejected, objective.chosen_tokens[row], own.chosen_change),
      side("Rejected", text.rejected, text.chosen, objective.rejected_tokens[row], own.rejected_change)) : null,
    answersTo(view, own.id),
    plot,
    element("p", {}, element("label", {}, flag, " flag this pair")),
    element("label", {}, "Your note on this pair, kept in this browser", words),
  ].filter((part) => part !== null));
  if (!byId("card").open) leaveBehind();
  report.open = own.id;
  report.openRow = row;
  if (!byId("card").open) byId("card").showModal();
  draw(plot, trajectoryChart(row), null);
  writeAddress();
}

function step(by) {
  const rows = sortedRows();
  const at = rows.indexOf(report.openRow ?? -1);
  const next = rows[at < 0 ? 0 : Math.min(Math.max(at + by, 0), rows.length - 1)];
  if (next !== undefined) openCard(next);
}

function exportNotes() {
  const lines = Object.entries(notes()).filter(([, note]) => note.flag || note.note).map(([key, note]) => {
    const cut = key.indexOf("/");
    return JSON.stringify({ objective: key.slice(0, cut), pair_id: key.slice(cut + 1), ...note });
  });
  const link = element("a", { href: URL.createObjectURL(new Blob([lines.map((line) => line + "\n").join("")], { type: "application/jsonl" })), download: "notes.jsonl" });
  link.click();
  URL.revokeObjectURL(link.href);
}
