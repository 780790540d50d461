// A run at work: the page asks where it is, moves its curves and shows the newest answers.
const EVERY = 1000; // milliseconds between two questions
let silent = 0;

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

ask();
