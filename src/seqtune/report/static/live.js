// A run at work: the page asks where it is, moves its curves and shows the newest answers.
const EVERY = 1000; // milliseconds between two questions
let samples = [];
let silent = 0;

function showSamples() {
  const slider = byId("when");
  const atEnd = Number(slider.value) >= Number(slider.max);
  byId("samples").hidden = !samples.length;
  slider.max = String(Math.max(0, samples.length - 1));
  if (atEnd) slider.value = slider.max;
  const at = samples[Number(slider.value)];
  if (!at) return;
  byId("when-step").textContent = `step ${at.step}${isNumber(at.validation_loss) ? `, validation loss ${shown(at.validation_loss, 3)}` : ""}`;
  byId("sample-cards").replaceChildren(...at.answers.map(({ input, reference, answer }) => element("dl", { class: "card" },
    element("dt", {}, "question"), element("dd", { dir: "auto" }, input), element("dt", {}, "reference"), element("dd", { dir: "auto" }, reference),
    element("dt", {}, "answer"), element("dd", { class: "now", dir: "auto" }, answer ? marked(reference, answer) : element("span", { class: "empty" }, "(nothing)")))));
}

function showState(state) {
  byId("stage").textContent = state.total ? `${state.stage}: ${state.done} of ${state.total} ${state.unit}` : state.stage;
  byId("progress").value = state.total ? (100 * state.done) / state.total : 0;
  byId("figures").textContent = Object.entries(state.figures ?? {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${shown(value, 3)}`).join("   ");
  if (state.curves) { data.curves = state.curves; ["loss", "learning-rate", "speed"].forEach(draw); }
  if (state.samples.length !== samples.length) { samples = state.samples; showSamples(); }
}

async function ask() {
  try {
    const response = await fetch(`state?steps=${data.curves.steps.length}`, { cache: "no-store" });
    const state = await response.json();
    silent = 0;
    if (state.version !== data.live.version) { location.reload(); return; } // there is more to show than curves
    showState(state);
    if (state.finished) { document.querySelector(".pulse")?.remove(); return; }
  } catch {
    if (++silent > 5) { byId("stage").textContent = "The run does not answer any more: it has ended, or was stopped."; return; }
  }
  setTimeout(ask, EVERY);
}

byId("when").addEventListener("input", showSamples);
ask();
