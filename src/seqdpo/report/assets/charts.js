"use strict";
// Draws the specifications with the interpreter of expressions: the page's policy allows no code made at run time.
const MOST_POINTS = 5000;
// On a dark page the palette's darkest colours would drown, and white words on the lighter ones.
const ON_DARK = { "#0072B2": "#56B4E9", "#D55E00": "#FF9A5C", "#009E73": "#2FCB9F", "#FFFFFF": "#0D1117" };
const isNarrow = () => innerWidth < 560;
const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;

// In the page's colours; on a phone the names beside an axis leave room for the picture.
function fitted(spec) {
  let text = JSON.stringify(spec);
  if (isDark()) text = text.replace(/#[0-9A-F]{6}/gi, (colour) => ON_DARK[colour.toUpperCase()] ?? colour);
  if (isNarrow()) text = text.replace(/"labelLimit":\d+/g, '"labelLimit":150');
  return JSON.parse(text);
}

// A number with three digits after the point at most.
const short = (value) => /^-?\d+\.\d{4,}$/.test(value) ? Number(value).toFixed(3) : value;

function theme() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  return {
    background: "transparent", font: "system-ui, sans-serif", numberFormat: ",.3~f",
    axisX: { labelFlush: false, labelOverlap: true, labelSeparation: 4 },
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: soft, tickColor: soft, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    legend: { labelColor: ink, titleColor: ink, orient: "bottom", titleLimit: 320, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 320, symbolSize: 60, columns: isNarrow() ? 1 : 4 },
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
  const spec = fitted(chart.spec);
  plot.dataset.dark = isDark();
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
  view.tooltip((handler, event, item, value) => { plot.title = value ? Object.entries(value).map(([k, v]) => `${k}: ${short(v)}`).join("\n") : ""; });
  if (shown) opensPairs(view);
  await view.runAsync();
  return view;
}

// A click on a point opens its pair. What was pressed is known before an area begins there; a drag is no click.
function opensPairs(view) {
  let pressed = null;
  view.addEventListener("pointerdown", (event, item) => { pressed = { row: item?.datum?.row, x: event.clientX, y: event.clientY }; });
  view.addEventListener("click", (event) => {
    if (pressed?.row === undefined || Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > 3) return;
    openCard(pressed.row);
  });
}

async function drawAll(container, charts, pairs) {
  container.replaceChildren();
  const views = [];
  for (const chart of charts) views.push(await draw(container, chart, chart.needs_pairs ? pairs : null));
  return views;
}

// Whether pairs are chosen in it, by an area.
const isBrushed = (chart) => chart.spec.layer?.some((layer) => layer.params?.some((param) => param.name === "brush"));
