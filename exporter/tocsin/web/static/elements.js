// Elements and texts. Text from outside becomes text nodes only, never markup.

const LONGEST = 300;
const LABEL = 60;              // characters of a label that are shown until it is opened
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

const shown = new Map();       // what each part of the page was last made of, as JSON
const opened = new Set();      // long texts that are open
export const server = { skew: 0 };   // its clock minus this one's, in ms

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

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

export function clock(text) {
  return make("time", { datetime: text, title: text }, new Date(text).toLocaleTimeString());
}

export function moment(text) {
  return make("time", { datetime: text, title: text }, new Date(text).toLocaleString());
}

export function span(seconds) {
  return seconds < 60 ? `${number(Math.round(seconds * 10) / 10)} s`
    : seconds < 3_600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

export function labels(pairs, value = null) {
  const entries = Object.entries(pairs);
  if (value !== null) entries.push(["value", number(value)]);
  if (!entries.length) return make("span", { class: "labels none" }, "no labels");
  return make("span", { class: "labels pairs" },
    ...entries.flatMap(([name, value]) => [make("span", {}, make("span", {}, `${name} `), long(value)), " "]));
}

// The annotation `summary`, if there is one.
export const summary = (record) =>
  record.summary ? make("div", { class: "summary" }, long(record.summary, LONGEST)) : null;

export function tag(word, kind) {
  return make("span", { class: `tag ${kind ?? ""}` }, word);
}

// `key` names the button, so that it keeps the focus when its list is made again.
export function button(text, key, onclick, kind = "") {
  return make("button", { type: "button", class: kind, "data-key": key, onclick }, text);
}

export const link = (text, key, onclick) => button(text, key, onclick, "link");

export function card(...children) {
  return make("div", { class: "card" }, ...children);
}

export function empty(...children) {
  return card(make("div", { class: "empty" }, ...children));
}

export function focus(key, within = document) {
  const found = [...within.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
  found?.focus({ preventScroll: true });
}

// Replace a part of the page if its content changed, but not while the user has text selected in it.
export function show(id, content, build) {
  const part = $(id);
  const key = JSON.stringify(content);
  const selection = document.getSelection();
  const copying = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  if (shown.get(id) === key || copying) return;
  shown.set(id, key);
  const focused = part.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  part.replaceChildren(...[build(content)].flat());
  if (focused !== undefined) focus(focused, part);
}
