// Asks the server that this page came from. What comes back is text, and is only ever shown as text (textContent).
"use strict";

const $ = (id) => document.getElementById(id);
const models = new Map();
let running = null;

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

function say(text, bad = false) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function connect() {
  let response;
  try {
    response = await fetch("v1/models", { headers: headers() });
  } catch {
    say("the server can't be reached; trying again", true);
    setTimeout(connect, 3000);
    return;
  }
  $("key-label").hidden = response.status !== 401 && !$("key").value;
  if (!response.ok) {
    say(await problemOf(response), true);
    return;
  }
  const chosen = $("model").value;
  models.clear();
  $("model").replaceChildren();
  for (const model of (await response.json()).data) {
    models.set(model.id, model);
    const option = document.createElement("option");
    option.value = model.id;
    option.textContent = model.parent ? model.id : `${model.id} (base)`;
    $("model").append(option);
  }
  if (models.has(chosen)) $("model").value = chosen;
  await warm();
}

async function warm() {
  try {
    const { ok } = await fetch("health");
    $("ask").disabled = !ok;
    if (ok) return say(`${models.size} models`);
    say("the models are getting ready …");
  } catch {
    say("the server can't be reached; trying again", true);
  }
  setTimeout(warm, 1000);
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") return;
      if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
    }
  }
}

function sideOf(name, sides) {
  const side = $("side").content.cloneNode(true).firstElementChild;
  const model = models.get(name);
  side.querySelector("h2").textContent = model && model.parent ? `${name}, tuned` : `${name}, base`;
  sides.append(side);
  return side;
}

async function answer(name, question, side, signal) {
  const shown = side.querySelector(".answer");
  const facts = side.querySelector(".facts");
  const begun = performance.now();
  const fail = (text) => {
    facts.textContent = text;
    facts.classList.add("bad");
  };
  facts.textContent = "…";
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal,
      body: JSON.stringify({
        model: name,
        messages: [{ role: "user", content: question }],
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!response.ok) return fail(await problemOf(response));
    let reason = "";
    for await (const event of eventsOf(response)) {
      if (event.error) return fail(event.error.message);
      const choice = event.choices[0];
      if (choice) {
        shown.textContent += choice.delta.content ?? "";
        reason = choice.finish_reason ?? reason;
      }
      if (event.usage) {
        const seconds = ((performance.now() - begun) / 1000).toFixed(1);
        const cut = reason === "length" ? ", cut at the limit" : "";
        facts.textContent = `${event.usage.completion_tokens} tokens in ${seconds} s${cut}`;
      }
    }
    if (!shown.textContent) shown.textContent = "(nothing)";
  } catch (error) {
    fail(error.name === "AbortError" ? "stopped" : "the connection broke off");
  }
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value;
  if (running || !question.trim()) return;
  running = new AbortController();
  $("ask").disabled = true;
  $("stop").hidden = false;
  const exchange = $("exchange").content.cloneNode(true).firstElementChild;
  exchange.querySelector(".question").textContent = question;
  const sides = exchange.querySelector(".sides");
  $("answers").prepend(exchange);
  const name = $("model").value;
  const model = models.get(name);
  const names = $("compare").checked && model && model.parent ? [model.parent, name] : [name];
  await Promise.all(names.map((each) => answer(each, question, sideOf(each, sides), running.signal)));
  running = null;
  $("stop").hidden = true;
  $("ask").disabled = false;
}

$("form").addEventListener("submit", ask);
$("stop").addEventListener("click", () => running && running.abort());
$("key").addEventListener("change", connect);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
connect();
