// Differences word by word: the longest common subsequence of two texts' words.
const LONGEST = 400; // words of a text that are compared in their order; longer ones as bags of words
const ALIKE = 0.3; // share of the reference's words that an answer has, from which on those that it lacks are shown

const segmenter = typeof Intl.Segmenter === "function" ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

// The words of a text, each with the white space behind it; in any script where the browser can tell words apart.
function wordsOf(text) {
  const parts = segmenter ? Array.from(segmenter.segment(text), (part) => part.segment) : text.match(/\s+|\S+/g) ?? [];
  const words = [];
  for (const part of parts) {
    if (/^\s+$/.test(part)) {
      if (words.length) words[words.length - 1].space += part;
    } else words.push({ word: part, space: "" });
  }
  return words;
}

// What turns the reference into the answer: parts of kind "same", "more" (in the answer alone), "less" (missing in it).
function differences(reference, answer) {
  const a = wordsOf(reference), b = wordsOf(answer);
  const parts = [];
  const add = (kind, { word, space }) => {
    const last = parts[parts.length - 1];
    if (last && last.kind === kind) last.text += word + space;
    else parts.push({ kind, text: word + space });
  };
  if (a.length > LONGEST || b.length > LONGEST) {
    const known = new Set(a.map(({ word }) => word));
    for (const each of b) add(known.has(each.word) ? "same" : "more", each);
    return parts;
  }
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i * width + j] = a[i].word === b[j].word
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  if (longest[0] < ALIKE * a.length) { // hardly anything in common: to strike the whole reference out would only be noise
    for (let i = 0, j = 0; j < b.length; j++) {
      while (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1] && a[i].word !== b[j].word) i++;
      if (i < a.length && a[i].word === b[j].word) { add("same", b[j]); i++; } else add("more", b[j]);
    }
    return parts;
  }
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i].word === b[j].word) { add("same", b[j]); i++; j++; }
    else if (j >= b.length || (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) add("less", a[i++]);
    else add("more", b[j++]);
  }
  return parts;
}

// The answer as nodes, with <ins> and <del> where it differs.
function marked(reference, answer) {
  const holder = document.createDocumentFragment();
  for (const { kind, text } of differences(reference, answer)) {
    if (kind === "same") { holder.append(document.createTextNode(text)); continue; }
    const bare = text.replace(/\s+$/, "");
    holder.append(element(kind === "more" ? "ins" : "del", {}, bare), document.createTextNode(text.slice(bare.length) || (kind === "less" ? " " : "")));
  }
  return holder;
}
