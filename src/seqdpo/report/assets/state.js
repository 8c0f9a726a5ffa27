"use strict";
// What the reader sees is in the address: #objective=…&from=…&to=…&seed=…&flip=lost,kept&sort=after:asc&q=Q1&slice=…&search=…&pair=…&text=1
const report = { data: null, rows: [], view: null, brush: null, sort: "" };
const WORST_FIRST = "change:asc";
const FLIPS = ["kept", "lost", "regained", "never", "tied"];
const byId = (id) => document.getElementById(id);

async function unpacked() {
  const packed = Uint8Array.from(atob(byId("payload").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const signed = (x, digits = 2) => (x === null || x === undefined ? "–" : (x > 0 ? "+" : "") + x.toFixed(digits));

function flipOf(before, after) {
  if (before === null || after === null) return null;
  if (before === 0 || after === 0) return "tied";
  return before > 0 ? (after > 0 ? "kept" : "lost") : after > 0 ? "regained" : "never";
}

// The rows of a view: one object a pair, with the fields that charts and table share.
function rowsOf(view) {
  const objective = report.data.objectives[view.objective];
  const [from, to] = [view.from, view.to].map((name) => objective.checkpoints[`${view.seed}|${name}`]);
  const quartile = view.cell === null ? null : report.data.cells[view.cell].quartile;
  const slices = Object.entries(objective.slices);
  return objective.ids.map((id, row) => {
    const [before, after] = [from.margin[row], to.margin[row]];
    const known = before !== null && after !== null;
    const chosen = known ? to.chosen[row] - from.chosen[row] : null;
    const made = {
      row, id, before, after,
      change: known ? after - before : null,
      flip: view.from_base ? null : flipOf(before, after),
      quartile: quartile && quartile[row] >= 0 ? `Q${quartile[row] + 1}` : null,
      chosen_change: chosen,
      rejected_change: known ? chosen - (after - before) : null,
      chosen_tokens: objective.chosen_tokens[row],
      rejected_tokens: objective.rejected_tokens[row],
    };
    slices.forEach(([, values], i) => { made[`slice${i}`] = values[row]; });
    return made;
  });
}

function textOf(objective, row) {
  const texts = report.data.objectives[objective].texts;
  texts.places ??= new Map(texts.rows.map((r, i) => [r, i]));
  const place = texts.places.get(row);
  return place === undefined ? null : { prompt: texts.prompt[place], chosen: texts.chosen[place], rejected: texts.rejected[place] };
}

function searchable(objective, row) {
  const held = report.data.objectives[objective];
  held.lower ??= new Map();
  if (!held.lower.has(row)) {
    const text = textOf(objective, row);
    held.lower.set(row, `${held.ids[row]}\n${text ? `${text.prompt}\n${text.chosen}\n${text.rejected}` : ""}`.toLowerCase());
  }
  return held.lower.get(row);
}

function readAddress() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

// The present address stays behind for the browser's back button; what follows writes over the new one.
function leaveBehind() {
  history.pushState(null, "", location.href);
}

function writeAddress() {
  const view = report.view;
  const flips = chosenFlips();
  const state = {
    objective: view.objective, seed: view.seed, from: view.from, to: view.to,
    flip: flips.length === FLIPS.length ? "" : flips.join(",") || "none", sort: report.sort,
    q: byId("quartile").value, slice: byId("slice").value, search: byId("search").value,
    area: report.brush ? Object.values(report.brush).flat().map((x) => x.toFixed(3)).join(",") : "",
    pair: byId("card").open ? report.open ?? "" : "",
    text: byId("show-text").checked ? "1" : "",
  };
  const kept = Object.entries(state).filter(([, value]) => value !== "");
  history.replaceState(null, "", "#" + new URLSearchParams(kept).toString());
}

const chosenFlips = () => [...document.querySelectorAll("input[name=flip]:checked")].map((box) => box.value);
const viewName = (view) => `${view.objective}, from ${view.from} to ${view.to} (seed ${view.seed})`;
