// The figures. Each is built from the data and the colours of the moment, and drawn again when these change.
// At first the page stands without them: those in sight are drawn then, the others when nothing else is to be done.
const figures = {}; // name → (colours) => {data, layout} or null where there is nothing to draw
const waiting = new Set(); // figures that are not drawn yet

const coarse = window.matchMedia("(pointer: coarse)").matches; // a finger scrolls the page, not the figure

function layout(c, more = {}) {
  // No powers of ten as raised text: plotly.js writes those with an inline style, which the page's policy refuses.
  const axis = { gridcolor: c.line, zerolinecolor: c.line, linecolor: c.line, tickcolor: c.line, exponentformat: "e", minexponent: 6, separatethousands: true, automargin: true, fixedrange: coarse };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 44, r: 12, t: 8, b: 36 },
    font: { color: c.soft, size: 12, family: 'system-ui, "Segoe UI", Roboto, Arial, sans-serif' },
    hoverlabel: { bgcolor: c.card, bordercolor: c.line, font: { color: c.ink } }, hovermode: "x unified",
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" }, dragmode: coarse ? false : "zoom",
    bargap: 0.12, ...rest, xaxis: { ...axis, showgrid: false, ...xaxis }, yaxis: { ...axis, ...yaxis },
  };
}

// Each value with its neighbours' mean, as many on either side as there are: nothing lags behind.
function smoothed(values) {
  const reach = Math.min(25, Math.floor(values.length / 40));
  const sums = [0];
  for (const value of values) sums.push(sums[sums.length - 1] + value);
  return values.map((_, i) => {
    const side = Math.min(reach, i, values.length - 1 - i);
    return (sums[i + side + 1] - sums[i - side]) / (2 * side + 1);
  });
}

const line = (x, y, name, color, more = {}) => ({ type: "scatter", mode: "lines", x, y, name, line: { color, width: 2 }, hovertemplate: "%{y:.4~g}", ...more });

figures.loss = (c) => {
  const { steps, loss, validation } = data.curves;
  if (steps.length + validation.steps.length < 2) return null;
  const marks = [...(data.resumed ?? []).map((x) => ({ x, color: c.bad, dash: "dot" }))];
  if (isNumber(data.best_step)) marks.push({ x: data.best_step, color: c.tuned, dash: "dash" });
  return {
    data: [
      line(steps, loss, "training", c.faint, { line: { color: c.faint, width: 1 }, hoverinfo: "skip", hovertemplate: undefined, showlegend: false }),
      line(steps, smoothed(loss), "training, smoothed", c.base),
      line(validation.steps, validation.loss, "validation", c.tuned, { mode: "lines+markers", line: { color: c.tuned, width: 2.5 }, marker: { size: 6, color: c.tuned } }),
    ],
    layout: layout(c, {
      yaxis: { rangemode: "tozero" }, xaxis: { hoverformat: "d" },
      shapes: marks.map(({ x, color, dash }) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color, width: 1.2, dash } })),
      annotations: isNumber(data.best_step) ? [{ x: data.best_step, yref: "paper", y: 0.98, text: "best", showarrow: false, xanchor: "right", xshift: -4, font: { color: c.tuned } }] : [],
    }),
  };
};

figures["learning-rate"] = (c) => data.curves.steps.length < 2 ? null : {
  data: [line(data.curves.steps, data.curves.learning_rate, "learning rate", c.tuned)],
  layout: layout(c, { yaxis: { rangemode: "tozero" }, showlegend: false }),
};

figures.speed = (c) => data.curves.steps.length < 2 ? null : {
  data: [
    line(data.curves.steps, data.curves.speed, "tokens a second", c.faint, { line: { color: c.faint, width: 1 }, hoverinfo: "skip", hovertemplate: undefined }),
    line(data.curves.steps, smoothed(data.curves.speed.map((value) => value ?? 0)), "smoothed", c.base, { hovertemplate: "%{y:,.0f}" }),
  ],
  layout: layout(c, { yaxis: { rangemode: "tozero" }, showlegend: false }),
};

figures.scores = (c) => {
  const rows = (data.scores.hold_out ?? []).filter((row) => row.percent).reverse();
  if (!rows.length) return null;
  const names = rows.map((row) => plain(row.name));
  const bounds = rows.map((row) => (isNumber(row.low) && isNumber(row.high) ? [row.base + row.low, row.base + row.high] : null));
  return {
    data: [
      { type: "scatter", mode: "lines", x: rows.flatMap((row) => [row.base, row.tuned, null]), y: names.flatMap((name) => [name, name, null]),
        line: { color: c.line, width: 5 }, hoverinfo: "skip", showlegend: false },
      { type: "scatter", mode: "markers", name: "base", x: rows.map((row) => row.base), y: names, marker: { color: c.base, size: 11 }, hovertemplate: "base %{x:.2f}<extra></extra>" },
      { type: "scatter", mode: "markers", name: "tuned", x: rows.map((row) => row.tuned), y: names, marker: { color: c.tuned, size: 13 }, hovertemplate: "tuned %{x:.2f}<extra></extra>",
        error_x: { type: "data", symmetric: false, color: c.tuned, thickness: 2, width: 6,
          array: rows.map((row, i) => (bounds[i] ? Math.max(0, bounds[i][1] - row.tuned) : 0)), arrayminus: rows.map((row, i) => (bounds[i] ? Math.max(0, row.tuned - bounds[i][0]) : 0)) } },
    ],
    layout: layout(c, { hovermode: "closest", xaxis: { range: [-2, 102], showgrid: true, zeroline: false }, yaxis: { showgrid: false, tickfont: { color: c.ink } } }),
  };
};

for (const [side, histogram] of Object.entries(data.histograms)) {
  figures[`lengths-${side}`] = (c) => {
    const { edges, counts, limit } = histogram;
    const inside = isNumber(limit) && limit <= edges[edges.length - 1];
    return {
      data: [{ type: "bar", x: counts.map((_, i) => (edges[i] + edges[i + 1]) / 2), width: counts.map((_, i) => edges[i + 1] - edges[i]), y: counts,
        customdata: counts.map((_, i) => `${edges[i]} to ${edges[i + 1]} tokens`), hovertemplate: "%{customdata}: %{y:,} rows<extra></extra>", name: "rows",
        marker: { color: counts.map((_, i) => (inside && edges[i] >= limit ? c.bad : c.base)) } }],
      layout: layout(c, { bargap: 0.04, hovermode: "closest", showlegend: false,
        shapes: inside ? [{ type: "line", x0: limit, x1: limit, yref: "paper", y0: 0, y1: 1, line: { color: c.bad, dash: "dash", width: 1.5 } }] : [] }),
    };
  };
}

// plotly.js is the larger part of the page's scripts: it stands there as text and is run for the first figure.
function withPlotly() {
  if (!window.Plotly) document.body.append(element("script", {}, byId("plotly").textContent));
  return window.Plotly;
}

const placeOf = (name) => document.querySelector(`figure[data-chart="${name}"]`);

// Draw one figure where the page has a place for it; on paper the widths are known and nothing moves.
function draw(name) {
  waiting.delete(name);
  const place = placeOf(name);
  const built = place && figures[name] ? figures[name](colours()) : null;
  if (!place) return;
  place.hidden = !built;
  if (!built) return;
  const wide = place.classList.contains("wide") || place.classList.contains("tall");
  const size = printing ? { width: wide ? 690 : 335, autosize: false } : { width: undefined, autosize: true };
  withPlotly().react(place.querySelector(".plot"), built.data, { ...built.layout, ...size }, { displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset" });
  if (!place.querySelector("details")) place.append(numbers(name));
}

const drawAll = () => Object.keys(figures).forEach(draw);

const whenIdle = window.requestIdleCallback ?? ((call) => setTimeout(call, 30));

// Give every figure its room, draw those that are seen, then the others one by one; say when the first are there, and all.
function drawInTurn() {
  for (const name of Object.keys(figures)) {
    const place = placeOf(name);
    if (!place) continue;
    place.hidden = !figures[name](colours());
    if (!place.hidden) waiting.add(name);
  }
  const reached = (state) => { document.documentElement.dataset[state] = "yes"; performance.mark(state); };
  let begun = false;
  const next = () => {
    const [name] = waiting;
    if (name !== undefined) draw(name);
    if (waiting.size) whenIdle(next); else reached("ready"); // all is drawn
  };
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting && waiting.has(target.dataset.chart)) draw(target.dataset.chart);
    if (!begun) { begun = true; reached("open"); whenIdle(next); } // what is in sight is there
  });
  if (!waiting.size) { reached("open"); reached("ready"); }
  for (const name of waiting) seen.observe(placeOf(name));
}

// The figure's numbers as a table, made when it is opened: for readers of screens, and for copying.
function numbers(name) {
  const details = element("details", {}, element("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => {
    details.querySelector(".scroll")?.remove();
    if (!details.open) return;
    const body = element("tbody");
    for (const trace of figures[name](colours()).data.filter((trace) => trace.name && trace.hoverinfo !== "skip"))
      trace.x.slice(0, 500).forEach((x, i) => body.append(element("tr", {}, element("th", { scope: "row" }, trace.name),
        element("td", { class: "n" }, trace.customdata?.[i] ?? x), element("td", { class: "n" }, isNumber(trace.y[i]) ? Number(trace.y[i].toPrecision(5)) : trace.y[i]))));
    details.append(element("div", { class: "scroll", tabindex: "0" }, element("table", {}, body)));
  });
  return details;
}
