// The table of answers: views, search, sorting, pages; a predictions file of the run can be opened into it.
const PAGE = 25, VIEW = 20;
const table = { view: "all", sort: null, descending: false, page: 0, query: "", fields: {}, seed: 1 };
const haystacks = new Map(); // per set: what the search looks through, made at the first search

const hasText = () => (data.sets[chosen.split]?.texts ?? 0) > 0;
const score = (model, i) => data.sets[chosen.split].scores[model][chosen.metric]?.[i];
const change = (i) => (isNumber(score("base", i)) && isNumber(score("tuned", i)) ? score("tuned", i) - score("base", i) : null);
const gain = (i) => (lessIsBetter(chosen.metric) ? -(change(i) ?? 0) : change(i) ?? 0);
const merit = (i) => { const found = score("tuned", i); return !isNumber(found) ? -Infinity : lessIsBetter(chosen.metric) ? -found : found; };

const COLUMNS = [
  { key: "row", name: "Row", css: "c-row n", value: (set, i) => set.row[i] },
  { key: "input", name: "Question", text: true, value: (set, i) => set.input[i] },
  { key: "reference", name: "Reference", text: true, value: (set, i) => set.reference[i] },
  { key: "base", name: "Base", text: true, value: (set, i) => set.base[i] },
  { key: "tuned", name: "Tuned", text: true, value: (set, i) => set.tuned[i] },
  { key: "length", name: "Characters", numbersOnly: true, css: "n", value: (set, i) => set.length[i] },
  { key: "base-score", name: "Base score", css: "c-score n", value: (set, i) => score("base", i) },
  { key: "tuned-score", name: "Tuned score", css: "c-score n", value: (set, i) => score("tuned", i) },
  { key: "change", name: "Change", css: "c-score n", value: (set, i) => change(i) },
];
const columns = () => COLUMNS.filter((column) => (hasText() ? !column.numbersOnly : !column.text));

function found() {
  const set = data.sets[chosen.split];
  let rows = set.row.map((_, i) => i);
  if (hasText()) rows = rows.filter((i) => set.input[i] !== null);
  for (const [name, value] of Object.entries(table.fields)) if (value >= 0 && set.fields[name]) rows = rows.filter((i) => set.fields[name].of[i] === value);
  const wanted = table.query.toLowerCase().split(/\s+/).filter(Boolean);
  if (wanted.length && hasText()) {
    if (!haystacks.has(set)) haystacks.set(set, set.input.map((text, i) => [text, set.reference[i], set.base[i], set.tuned[i], set.extra[i]].join("\n").toLowerCase()));
    rows = rows.filter((i) => wanted.every((word) => haystacks.get(set)[i].includes(word)));
  }
  const by = { best: (a, b) => merit(b) - merit(a), worst: (a, b) => merit(a) - merit(b), improved: (a, b) => gain(b) - gain(a), worsened: (a, b) => gain(a) - gain(b) }[table.view];
  if (by) rows = rows.sort(by).slice(0, VIEW);
  if (table.view === "random") {
    const roll = dice(table.seed);
    rows = rows.map((i) => [roll(), i]).sort((a, b) => a[0] - b[0]).slice(0, VIEW).map(([, i]) => i);
  }
  if (table.sort) {
    const column = COLUMNS.find(({ key }) => key === table.sort), way = table.descending ? -1 : 1;
    const collator = new Intl.Collator();
    rows.sort((i, j) => {
      const a = column.value(set, i), b = column.value(set, j);
      if (a === null || b === null || a === undefined || b === undefined) return (a == null) - (b == null);
      return way * (typeof a === "string" ? collator.compare(a, b) : a - b) || i - j;
    });
  }
  return rows;
}

function cell(column, set, i) {
  const value = column.value(set, i);
  if (!column.text) return element("td", { class: column.css, "data-label": column.name }, isNumber(value) ? (column.key === "row" || column.key === "length" ? value : shown(value, lessIsBetter(chosen.metric) ? 2 : 1, column.key === "change")) : "–");
  const holder = element("div", { class: "text", dir: "auto" });
  if (!value) holder.append(element("span", { class: "empty" }, "(nothing)"));
  else if ((column.key === "base" || column.key === "tuned") && byId("mark").checked) holder.append(marked((set.reference[i] ?? "").split("\n or \n")[0], value));
  else holder.append(value);
  if (column.key === "input" && set.extra[i]) holder.append(element("span", { class: "small" }, set.extra[i]));
  return element("td", { "data-label": column.name }, holder);
}

function showRows() {
  const set = data.sets[chosen.split];
  if (!set) return;
  const rows = found(), pages = Math.max(1, Math.ceil(rows.length / PAGE));
  table.page = Math.min(table.page, pages - 1);
  const head = element("tr");
  for (const column of columns()) {
    const sorted = table.sort === column.key;
    const button = element("button", { type: "button" }, column.name + (sorted ? (table.descending ? " ↓" : " ↑") : ""));
    button.addEventListener("click", () => {
      table.descending = sorted ? !table.descending : !column.text && column.key !== "row";
      table.sort = column.key; table.page = 0; showRows();
      byId("rows").querySelector(`th[data-key="${column.key}"] button`).focus();
    });
    head.append(element("th", { scope: "col", class: column.css ?? "", "data-key": column.key, ...(sorted ? { "aria-sort": table.descending ? "descending" : "ascending" } : {}) }, button));
  }
  byId("rows").tHead.replaceChildren(head);
  byId("rows").tBodies[0].replaceChildren(...rows.slice(table.page * PAGE, (table.page + 1) * PAGE).map((i) => element("tr", {}, ...columns().map((column) => cell(column, set, i)))));
  const short = hasText() && set.texts < set.of ? `; the text of ${set.texts.toLocaleString("en")} of ${set.of.toLocaleString("en")} rows is in this page, all are in predictions/${chosen.split}.jsonl` : "";
  const cut = set.rows < set.of ? `; scores of the first ${set.rows.toLocaleString("en")} rows` : "";
  byId("found").textContent = `${rows.length.toLocaleString("en")} ${setName(chosen.split)} rows${short}${cut}`;
  byId("page").textContent = `page ${table.page + 1} of ${pages}`;
  byId("before").disabled = table.page === 0;
  byId("next").disabled = table.page >= pages - 1;
  byId("legend").hidden = !hasText() || !byId("mark").checked;
  byId("search").closest("label").hidden = byId("mark").closest("label").hidden = !hasText();
  byId("side-file").hidden = Object.values(data.sets).every((each) => each.texts === each.of);
  for (const button of document.querySelectorAll(".view")) button.setAttribute("aria-pressed", String(button.dataset.view === table.view));
}

function showFilters() {
  table.fields = {};
  const filters = Object.entries(data.sets[chosen.split]?.fields ?? {}).slice(0, 4).map(([name, { values }]) => {
    const pick = element("select", {}, element("option", { value: "-1" }, "all"), ...values.map((value, index) => element("option", { value: index }, value.length > 40 ? `${value.slice(0, 39)}…` : value)));
    pick.addEventListener("change", () => { table.fields[name] = Number(pick.value); table.page = 0; showRows(); });
    return element("label", {}, name.length > 30 ? `${name.slice(0, 29)}…` : name, " ", pick);
  });
  byId("field-filters").replaceChildren(...filters);
}

// The rows of a predictions file as the columns of a set; lines that are none are left out.
function readLines(text) {
  const rows = [];
  for (const each of text.split("\n")) {
    try { const row = JSON.parse(each); if (row && row.scores?.base && row.scores?.tuned) rows.push(row); } catch { /* an empty or foreign line */ }
  }
  const metrics = new Set(rows.flatMap((row) => Object.keys(row.scores.tuned)));
  const pick = (get) => rows.map(get), text_ = (value) => (typeof value === "string" ? value : "");
  const scores = (model) => Object.fromEntries([...metrics].map((metric) => [metric, pick((row) => (isNumber(row.scores[model][metric]) ? row.scores[model][metric] : null))]));
  const reference = (row) => (Array.isArray(row.references) && row.references.length ? row.references.map(String).join("\n or \n") : text_(row.reference));
  return { of: rows.length, rows: rows.length, texts: rows.length, row: pick((row) => row.row), length: pick((row) => reference(row).length), scores: { base: scores("base"), tuned: scores("tuned") },
    input: pick((row) => text_(row.input)), reference: pick(reference), base: pick((row) => text_(row.base)), tuned: pick((row) => text_(row.tuned)),
    extra: pick((row) => Object.entries(row.extra ?? {}).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(" · ")), fields: {} };
}

async function openFile(file) {
  const set = readLines(await file.text());
  if (!set.rows) { byId("found").textContent = "No predictions in this file."; return; }
  const split = Object.keys(data.sets).find((name) => file.name.startsWith(name)) ?? chosen.split;
  data.sets[split] = set;
  chosen.split = byId("pick-set").value = split;
  table.page = 0;
  showAll();
}
