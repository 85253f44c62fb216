// Elements and texts. Text from outside becomes text nodes only, never markup.

const LONGEST = 300;
const LABEL = 60;              // characters of a label that are shown until it is opened
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const SVG = "http://www.w3.org/2000/svg";

const opened = new Set();      // long texts that are open
export const server = { skew: 0 };   // its clock minus this one's, in ms

export const $ = (id) => document.getElementById(id);

function built(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// `onclick` and the like are listeners; attributes and children that are null are left out.
export const make = (tag, attributes = {}, ...children) => built(document.createElement(tag), attributes, children);
export const draw = (tag, attributes = {}, ...children) => built(document.createElementNS(SVG, tag), attributes, children);

// Invisible characters are shown by their code.
const visible = (text) =>
  String(text).replace(UNSEEN, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));

function cut(whole, longest) {
  const characters = Array.from(whole.slice(0, 2 * longest));
  return characters.length > longest || whole.length > 2 * longest ? characters.slice(0, longest).join("") + "…" : whole;
}

export function plain(text) {
  // <bdi> keeps right-to-left text from rearranging its surroundings.
  const whole = visible(text);
  const begin = cut(whole, LONGEST);
  return make("bdi", begin === whole ? {} : { title: whole.slice(0, 2000) }, begin);
}

// A text whose beginning is shown, and all of it when it is opened.
export function long(text, longest = LABEL) {
  const whole = visible(text).slice(0, 100_000);
  const begin = cut(whole, longest);
  if (begin === whole) return make("bdi", {}, whole);
  const summary = make("summary", { title: whole.slice(0, 2000), "data-key": `long ${whole}` }, make("bdi", {}, begin));
  const details = make("details", { class: "long" }, summary, make("bdi", {}, whole));
  details.open = opened.has(whole);
  details.addEventListener("toggle", () => (details.open ? opened.add(whole) : opened.delete(whole)));
  return details;
}

// Preformatted text, such as the body of a request.
export const block = (text) => make("pre", { tabindex: "0" }, make("code", {}, visible(text).slice(0, 100_000)));

// A value of a row, as the commands write it (`cell` in cli/tables.py).
export function number(value) {
  const ordinary = typeof value === "number" && Math.abs(value) < 1e15 && (Math.abs(value) >= 1e-6 || value === 0);
  return ordinary ? value.toLocaleString("en", { maximumFractionDigits: 6, useGrouping: false }) : String(value);
}

// How many of something.
export const counted = (count) => count.toLocaleString("en");

export const plural = (count, one, many = one + "s") => `${counted(count)} ${count === 1 ? one : many}`;

export function ago(text) {
  const seconds = Math.round((Date.now() + server.skew - Date.parse(text)) / 1000);
  const size = Math.abs(seconds);
  const words =
    size < 60 ? `${size} s`
    : size < 3_600 ? `${Math.floor(size / 60)} min`
    : size < 86_400 ? `${Math.floor(size / 3_600)} h ${Math.floor((size % 3_600) / 60)} min`
    : `${Math.floor(size / 86_400)} d ${Math.floor((size % 86_400) / 3_600)} h`;
  return seconds < -2 ? `in ${words}` : words;
}

export const later = (text) => Date.parse(text) > Date.now() + server.skew + 2_000;   // a merged message waits on purpose

export function since(text, suffix = "") {
  if (text === null) return make("span", { class: "none" }, "–");
  return make("time", { datetime: text, title: new Date(text).toString(), "data-suffix": suffix }, ago(text) + suffix);
}

export const past = (text) => since(text, later(text) ? "" : " ago");

// The times that are shown go on.
export function tick() {
  for (const element of document.querySelectorAll("time[data-suffix]")) {
    const words = ago(element.dateTime) + element.dataset.suffix;
    if (element.textContent !== words) element.textContent = words;
  }
}

export function clock(text) {
  return make("time", { datetime: text, title: text }, new Date(text).toLocaleTimeString());
}

export function moment(text) {
  return make("time", { datetime: text, title: text }, new Date(text).toLocaleString());
}

export function span(seconds) {
  return seconds < 0.1 ? `${Math.round(seconds * 1000)} ms`
    : seconds < 60 ? `${number(Math.round(seconds * 10) / 10)} s`
    : seconds < 3_600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

// Labels with their values. `pick`: called with a name and a value that are clicked.
export function labels(pairs, value = null, pick = null) {
  const entries = Object.entries(pairs);
  if (value !== null) entries.push(["value", number(value)]);
  if (!entries.length) return make("span", { class: "labels none" }, "no labels");
  const pair = ([name, text]) => pick && name !== "value" && text.length <= LABEL
    ? make("button", { type: "button", class: "pair", "data-key": `pick ${name} ${text}`, title: `Only rows with ${name}="${text}"`, onclick: () => pick(name, text) },
      make("span", {}, `${name} `), make("bdi", {}, visible(text)))
    : make("span", {}, make("span", {}, `${name} `), long(text));
  return make("span", { class: "labels pairs" }, ...entries.flatMap((one) => [pair(one), " "]));
}

// The annotation `summary`, if there is one.
export const summary = (record) =>
  record.summary ? make("div", { class: "summary" }, long(record.summary, LONGEST)) : null;

export const tag = (word, kind) => make("span", { class: `tag ${kind ?? ""}` }, word);

// `key` names the button, so that it keeps the focus when its list is made again.
// `what`: what the button is about, for those who hear it apart from what is around it.
export const button = (text, key, onclick, what = "") =>
  make("button", { type: "button", "data-key": key, "aria-label": what ? `${text} ${what}` : null, onclick }, text);

// A list of [value, text] to choose from. `chosen`: called with the value.
export const choice = (label, name, options, value, chosen) => make("label", {}, `${label} `,
  make("select", { "data-key": name, onchange: (event) => chosen(event.target.value) },
    ...options.map(([one, text]) => make("option", { value: one, selected: one === value ? "" : null }, text))));

export const link = (href, ...children) => make("a", { href, "data-key": `link ${href}` }, ...children);

export const card = (...children) => make("div", { class: "card" }, ...children);

export const part = (children) => card(make("div", { class: "inside" }, ...children));

export const empty = (...children) => card(make("div", { class: "empty" }, ...children));

export function focus(key, within = document) {
  const found = [...within.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
  found?.focus({ preventScroll: true });
}

const shown = new WeakMap();   // element -> JSON of what it was last made of

// Whether the user has text selected in an element, or has opened one of its lists of choices.
const inUse = (element) => {
  const selection = document.getSelection();
  return (selection && !selection.isCollapsed && element.contains(selection.anchorNode))
    || (document.activeElement?.tagName === "SELECT" && element.contains(document.activeElement));
};

// Replace what is in an element if its content changed. The focus stays.
export function show(element, content, build) {
  const key = JSON.stringify(content);
  if (shown.get(element) === key || (shown.has(element) && inUse(element))) return;
  shown.set(element, key);
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  element.replaceChildren(...[build(content)].flat().filter((one) => one !== null && one !== ""));
  if (focused !== undefined) focus(focused, element);
}

// What is open in an element stays open in the one that is made in its place.
function keepOpen(before, made) {
  const open = new Set([...before.querySelectorAll("details[open] > summary")].map((one) => one.dataset.key));
  for (const summary of made.querySelectorAll("details > summary"))
    if (summary.dataset.key && open.has(summary.dataset.key)) summary.parentElement.open = true;
}

// Bring the children of an element in line with a list: each item has one, which is made again only if the item changed.
export function list(element, items, key, build) {
  const before = new Map([...element.children].map((child) => [child.dataset.item, child]));
  let next = element.firstElementChild;
  for (const item of items) {
    const name = key(item);
    const content = JSON.stringify(item);
    let child = before.get(name);
    before.delete(name);
    if (child === undefined || (shown.get(child) !== content && !inUse(child))) {
      const made = build(item);
      made.dataset.item = name;
      shown.set(made, content);
      if (child !== undefined) {
        const focused = child.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
        if (child === next) next = child.nextElementSibling;
        keepOpen(child, made);
        child.replaceWith(made);
        if (focused !== undefined) focus(focused, made);
      }
      child = made;
    }
    if (child === next) next = next.nextElementSibling;
    else if (child.nextElementSibling !== next || child.parentNode !== element) element.insertBefore(child, next);
  }
  for (const child of before.values()) child.remove();
}
