// Where tuning helped: distributions of one metric over the rows of one set, both chosen by the reader.
const chosen = { split: Object.keys(data.sets)[0], metric: data.metric };

// [base, tuned, length] of every row that both models have a score for.
function scoredRows() {
  const set = data.sets[chosen.split];
  const base = set?.scores.base[chosen.metric] ?? [], tuned = set?.scores.tuned[chosen.metric] ?? [];
  return base.map((value, i) => [value, tuned[i], set.length[i]]).filter(([b, t]) => isNumber(b) && isNumber(t));
}

// Even steps over all values: 20 of 5 points for a score from 0 to 100, else 20 of whatever they span.
function steps(values, symmetric) {
  const reach = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const top = lessIsBetter(chosen.metric) || reach > 100 ? reach || 1 : 100;
  const low = symmetric || values.some((value) => value < 0) ? -top : 0;
  const size = (top - low) / 20;
  return { low, size, middles: Array.from({ length: 20 }, (_, i) => low + (i + 0.5) * size) };
}

function counted(values, { low, size, middles }) {
  const counts = middles.map(() => 0);
  for (const value of values) counts[Math.max(0, Math.min(19, Math.floor((value - low) / size)))]++;
  return counts;
}

figures.distribution = (c) => {
  const rows = scoredRows();
  if (!rows.length) return null;
  const base = rows.map(([b]) => b), tuned = rows.map(([, t]) => t);
  const bins = steps([...base, ...tuned], false);
  const bar = (values, name, color) => ({ type: "bar", name, x: bins.middles, y: counted(values, bins), marker: { color }, hovertemplate: "%{y:,} rows" });
  return { data: [bar(base, "base", c.base), bar(tuned, "tuned", c.tuned)], layout: layout(c, { barmode: "group", xaxis: { hoverformat: ".3~g" } }) };
};

figures.change = (c) => {
  const changes = scoredRows().map(([b, t]) => t - b);
  if (!changes.length) return null;
  const bins = steps(changes, true);
  const better = (middle) => (middle > 0) !== lessIsBetter(chosen.metric);
  return {
    data: [{ type: "bar", name: "rows", x: bins.middles, y: counted(changes, bins), marker: { color: bins.middles.map((m) => (better(m) ? c.tuned : c.bad)) }, hovertemplate: "%{x:+.3~g}: %{y:,} rows<extra></extra>" }],
    layout: layout(c, { hovermode: "closest", showlegend: false, shapes: [{ type: "line", x0: 0, x1: 0, yref: "paper", y0: 0, y1: 1, line: { color: c.soft, width: 1, dash: "dot" } }] }),
  };
};

figures["by-length"] = (c) => {
  const rows = scoredRows().sort((a, b) => a[2] - b[2]);
  const groups = Math.min(5, Math.floor(rows.length / 4));
  if (groups < 2) return null;
  const parts = Array.from({ length: groups }, (_, g) => rows.slice(Math.round((g * rows.length) / groups), Math.round(((g + 1) * rows.length) / groups)));
  const names = parts.map((part, i) => `${part[0][2]}–${part[part.length - 1][2]} characters${"\u200b".repeat(i)}`); // two of the same name are two
  const top = rows.every(([b, t]) => b <= 100 && t <= 100) && !lessIsBetter(chosen.metric) ? 100 : Infinity; // no mean is above
  const bar = (which, name, color) => {
    const means = parts.map((part) => mean(part.map((row) => row[which])));
    const halves = parts.map((part, i) => 1.96 * Math.sqrt(part.reduce((sum, row) => sum + (row[which] - means[i]) ** 2, 0) / Math.max(1, part.length - 1) / part.length));
    return { type: "bar", name, x: names, y: means, marker: { color }, error_y: { type: "data", symmetric: false, array: halves.map((half, i) => Math.min(half, Math.max(0, top - means[i]))), arrayminus: halves.map((half, i) => Math.min(half, Math.max(0, means[i]))), color: c.soft, thickness: 1.3, width: 4 }, hovertemplate: "%{y:.1f}" };
  };
  return { data: [bar(0, "base", c.base), bar(1, "tuned", c.tuned)], layout: layout(c, { barmode: "group", yaxis: { rangemode: "tozero" } }) };
};

function describeDistributions() {
  const rows = scoredRows();
  const improved = rows.filter(([b, t]) => t !== b && (t > b) !== lessIsBetter(chosen.metric)).length;
  const worsened = rows.filter(([b, t]) => t !== b).length - improved;
  const texts = {
    distribution: `${label(chosen.metric)} of ${rows.length} rows: mean ${shown(mean(rows.map(([b]) => b)))} for the base, ${shown(mean(rows.map(([, t]) => t)))} for the tuned model`,
    change: `${improved} rows improved, ${worsened} worsened, ${rows.length - improved - worsened} stayed`,
    "by-length": `Mean ${label(chosen.metric)} by the length of the reference`,
  };
  for (const [name, text] of Object.entries(texts)) document.querySelector(`figure[data-chart="${name}"] .plot`)?.setAttribute("aria-label", text);
}

const redrawDistributions = () => { describeDistributions(); ["distribution", "change", "by-length"].forEach(draw); };
