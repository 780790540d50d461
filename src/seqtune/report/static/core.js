"use strict";
// What the other scripts stand on: the page's data, elements, numbers, colours.
// Text of strangers becomes text nodes here and nowhere anything else: no markup is ever made from a string.
const data = JSON.parse(document.getElementById("content").textContent);

const byId = (id) => document.getElementById(id);

// An element with attributes (all of them from this file's callers, never from data but for `data-label`) and children;
// a child that is no node becomes text.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const child of children) made.append(child instanceof Node ? child : document.createTextNode(String(child)));
  return made;
}

const label = (metric) => data.labels[metric] ?? metric;
const lessIsBetter = (metric) => data.less_is_better.includes(metric);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const setName = (split) => split.replace("_", "-");

function shown(value, digits = 1, signed = false) {
  if (!isNumber(value)) return "–";
  const text = value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return signed && value > 0 ? `+${text}` : text;
}

// plotly.js reads a little markup in its labels; escaped, it shows what was meant.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// Random numbers that a seed decides (mulberry32): the same draw on every machine.
function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const LIGHT = { ink: "#14181d", soft: "#5a636e", line: "#e2e5ea", card: "#ffffff", base: "#7c8794", tuned: "#0b6b47",
  faint: "#b9c1ca", bad: "#b3261e" };
const DARK = { ink: "#e9edf2", soft: "#a1abb7", line: "#2a313a", card: "#161a20", base: "#96a1ae", tuned: "#4fce9b",
  faint: "#525d69", bad: "#ff8f86" };
const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const colours = () => (darkScheme.matches && !printing ? DARK : LIGHT);
