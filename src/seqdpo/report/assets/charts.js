"use strict";
// Draws the specifications with the interpreter of expressions: the page's policy allows no code made at run time.
const MOST_POINTS = 5000;
// On a dark page the palette's darkest colours would drown, and white words on the lighter ones.
const ON_DARK = { "#0072B2": "#56B4E9", "#D55E00": "#FF9A5C", "#009E73": "#2FCB9F", "#FFFFFF": "#0D1117" };
const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;

function coloured(spec) {
  if (!isDark()) return structuredClone(spec);
  return JSON.parse(JSON.stringify(spec).replace(/#[0-9A-F]{6}/gi, (colour) => ON_DARK[colour.toUpperCase()] ?? colour));
}

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  return {
    background: "transparent", font: "system-ui, sans-serif",
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    legend: { labelColor: ink, titleColor: ink, orient: "bottom", titleLimit: 320, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", symbolSize: 60, columns: innerWidth < 560 ? 1 : 3 },
    view: { stroke: "transparent" }, rule: { color: soft }, text: { color: ink },
  };
}

// All that flipped, and of the rest a sample that is the same every time.
function drawn(rows) {
  const known = rows.filter((row) => row.change !== null);
  if (known.length <= MOST_POINTS) return known;
  const every = Math.ceil(known.length / MOST_POINTS);
  return known.filter((row, i) => row.flip === "lost" || row.flip === "regained" || i % every === 0);
}

async function draw(container, chart, pairs) {
  const plot = element("div", { className: "plot" });
  const figure = element("figure", {}, element("h3", { textContent: chart.title, dir: "auto" }), plot);
  const shown = pairs && drawn(pairs);
  const sampled = shown && shown.length < pairs.length ? ` Drawn: ${shown.length.toLocaleString("en")} of ${pairs.length.toLocaleString("en")} pairs, all that flipped among them.` : "";
  figure.append(element("figcaption", { textContent: chart.caption + sampled, dir: "auto" }));
  figure.dataset.chart = chart.key;
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${chart.title}. ${chart.alt}`);
  container.append(figure);
  const spec = coloured(chart.spec);
  spec.datasets = structuredClone(chart.data);
  if (shown) {
    spec.datasets.pairs = shown;
    const ends = shown.flatMap((row) => [row.before, row.after]);
    spec.datasets.identity = ends.length ? [{ value: ends.reduce((a, b) => Math.min(a, b)) }, { value: ends.reduce((a, b) => Math.max(a, b)) }] : [];
  }
  spec.config = theme();
  const compiled = vegaLite.compile(spec).spec;
  const view = new vega.View(vega.parse(compiled, null, { ast: true }), {
    expr: vega.expressionInterpreter, renderer: shown ? "canvas" : "svg", container: plot, hover: true,
    loader: vega.loader({ load: () => Promise.reject(new Error("nothing is loaded")) }),
  });
  view.tooltip((handler, event, item, value) => { plot.title = value ? Object.entries(value).map(([k, v]) => `${k}: ${v}`).join("\n") : ""; });
  await view.runAsync();
  return view;
}

async function drawAll(container, charts, pairs) {
  container.replaceChildren();
  const views = {};
  for (const chart of charts) {
    views[chart.key] = await draw(container, chart, chart.needs_pairs ? pairs : null);
  }
  return views;
}
