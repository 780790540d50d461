// How the answers to a few questions changed as the model learned: a slider through the measurements.
let samples = data.learned;

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

byId("when")?.addEventListener("input", showSamples);
