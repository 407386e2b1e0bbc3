// Elements from descriptions, and one tree made into another where they differ, so that focus and scrolling stay.
// Text is only ever set as text: names come from charters that strangers wrote.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "g", "line", "circle", "rect", "path", "text", "title", "desc"]);

export function el(tag, attributes = {}, ...children) {
  const node = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...nodes(children));
  return node;
}

/** What elements are made of: lists in lists flat, what is not there left out, everything else text. */
function nodes(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(clean(String(child)))));
}

/** What cannot be seen, or turns the reading direction around, made visible. */
function clean(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, "\ufffd");
}

export function byId(id) {
  return document.getElementById(id);
}

/** Make the children of `parent` what `fresh` are. */
export function show(parent, ...fresh) {
  const wanted = nodes(fresh);
  const there = [...parent.childNodes];
  wanted.forEach((child, i) => (there[i] ? morph(there[i], child) : parent.append(child)));
  there.slice(wanted.length).forEach((child) => child.remove());
}

function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  show(old, ...fresh.childNodes);
}

/** A table: `heads` are [text, class]; each row is a list of cells, the first of which heads it. */
export function table(caption, heads, rows) {
  return el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, i) =>
      el(i ? "td" : "th", { class: heads[i][1] || null, scope: i ? null : "row" }, cell))))));
}

/** Text in which what stands between backticks is a command. */
export function marked(text) {
  return text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

export function fact(name, value, kind = "") {
  return el("div", { class: kind }, el("dt", {}, name), el("dd", {}, value));
}
