// Wiring: what the reader does, and what the page does then.
function showMetrics() {
  const names = Object.keys(data.sets[chosen.split]?.scores.tuned ?? {});
  if (!names.includes(chosen.metric)) chosen.metric = names[0] ?? data.metric;
  byId("pick-metric").replaceChildren(...names.map((name) => element("option", name === chosen.metric ? { value: name, selected: "" } : { value: name }, label(name))));
}

function showAll() {
  showMetrics();
  showFilters();
  showRows();
  redrawDistributions();
}

function listen() {
  byId("pick-set").addEventListener("change", (event) => { chosen.split = event.target.value; table.page = 0; showAll(); });
  byId("pick-metric").addEventListener("change", (event) => { chosen.metric = event.target.value; table.page = 0; showRows(); redrawDistributions(); });
  for (const button of document.querySelectorAll(".view"))
    button.addEventListener("click", () => { table.view = button.dataset.view; table.sort = null; table.page = 0; table.seed++; showRows(); });
  let waiting;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { table.query = event.target.value; table.page = 0; showRows(); }, 120);
  });
  byId("mark").addEventListener("change", showRows);
  byId("before").addEventListener("click", () => { table.page--; showRows(); });
  byId("next").addEventListener("click", () => { table.page++; showRows(); });
  byId("open-file").addEventListener("change", (event) => { if (event.target.files[0]) openFile(event.target.files[0]); });
}

// The link of the section that is being read.
function follow() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries)
      if (isIntersecting) for (const [id, link] of links) {
        link.classList.toggle("here", id === target.id);
        if (id === target.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
      }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const id of links.keys()) if (byId(id)) seen.observe(byId(id));
}

for (const each of document.querySelectorAll("[data-scripted]")) each.hidden = false;
if (chosen.split) { byId("browser").hidden = false; listen(); showMetrics(); showFilters(); showRows(); describeDistributions(); }
if (samples.length) showSamples();
follow();
drawInTurn();
darkScheme.addEventListener("change", drawAll);
window.addEventListener("beforeprint", () => { printing = true; drawAll(); });
window.addEventListener("afterprint", () => { printing = false; drawAll(); });
