// The page of the inbox: draws what the server sends, and orders faults. Text of a message is set as text, never as markup.
"use strict";

const PRESETS = [
  { name: "Healthy", faults: [], says: "Answering as Novu does" },
  { name: "Slow", faults: [{ kind: "delay", seconds: 3 }], says: "Answering after 3 seconds" },
  { name: "429", faults: [{ kind: "status", status: 429, retry_after: 2 }], says: "Answering 429 to every request, retry after 2 seconds" },
  { name: "500", faults: [{ kind: "status", status: 500 }], says: "Answering 500 to every request" },
  { name: "Down", faults: [{ kind: "cut" }], says: "Cutting every connection" },
];

const COUNTERS = [
  ["messages", "delivered"],
  ["waiting", "waiting"],
  ["cancelled", "cancelled"],
  ["deleted", "deleted"],
  ["webhooks", "webhooks"],
  ["doubles", "delivered twice"],
  ["repeats_dropped", "repeats dropped"],
  ["requests", "requests"],
];
const WARNINGS = new Set(["doubles"]);
const WHEN_NOT_ZERO = new Set(["doubles", "repeats_dropped", "cancelled", "deleted", "webhooks", "waiting"]);

const STATES = { done: "no message" };
const LEVELS = [
  [/^(critical|crit|fatal|emergency|alert|error|high|page|urgent|p1|sev1)$/i, "high"],
  [/^(warning|warn|medium|moderate|p2|sev2)$/i, "medium"],
  [/^(info|information|notice|low|minor|p3|p4|sev3)$/i, "low"],
];
const SHOWN_FIELDS = 8;

const byId = (id) => document.getElementById(id);
let skew = 0; // seconds by which the server's clock is ahead of this one
let first = true;

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

// Keeps the children of a list in step with its items; an item that did not change keeps its element, and so its open details.
const drawn = new WeakMap();
function sync(parent, items, build) {
  const known = drawn.get(parent) || new Map();
  const next = new Map();
  let before = parent.firstChild;
  for (const item of items) {
    const old = known.get(item.key);
    const text = JSON.stringify(item);
    const kept = old && old.text === text;
    const element = kept ? old.element : build(item, old && old.element);
    if (old && element !== old.element) {
      if (before === old.element) before = element;
      old.element.replaceWith(element);
    }
    next.set(item.key, { text, element });
    if (element === before) before = element.nextSibling;
    else parent.insertBefore(element, before);
  }
  for (const [key, { element }] of known) if (!next.has(key)) element.remove();
  drawn.set(parent, next);
}

function level(severity) {
  const found = LEVELS.find(([pattern]) => pattern.test(severity));
  return found ? found[1] : "";
}

function fieldList(rows) {
  const list = make("dl", "fields");
  for (const [name, value, previous] of rows) {
    const shown = make("dd", "");
    if (previous !== null) shown.append(make("s", "", previous), " → ");
    shown.append(value);
    list.append(make("dt", "", name), shown);
  }
  return list;
}

function details(card, rows, summary, wasOpen) {
  const more = card.more ? ` and ${card.more} more` : "";
  const element = make("details", "", make("summary", "", summary + more), fieldList(rows));
  element.open = wasOpen;
  return element;
}

function drawCard(card, old) {
  const wasOpen = Boolean(old && old.querySelector("details[open]"));
  const severity = level(card.severity);
  const element = make("article", `card ${card.state} ${severity}`);
  if (!old && !first) element.classList.add("fresh");

  const meta = make("div", "meta", make("span", "state", STATES[card.state] || card.state));
  if (card.severity) meta.append(make("span", "severity", card.severity));
  if (card.status && card.status !== card.state && card.status !== "fired") meta.append(make("span", "", card.status));
  if (card.copies) meta.append(make("span", "twice", "delivered again"));
  const time = make("time", "");
  if (card.state === "waiting" && card.due) time.dataset.due = card.due;
  else time.dataset.at = card.at;
  time.title = new Date(card.at * 1000).toLocaleString();
  meta.append(time);
  element.append(meta, make("h3", "", card.title));
  if (card.body) element.append(make("p", "body", card.body));

  if (card.labels.length) {
    const labels = make("div", "labels");
    for (const [name, value] of card.labels) labels.append(make("span", "", make("i", "", `${name} `), value));
    element.append(labels);
  }
  const count = card.fields.length;
  if (count && card.body) {
    element.append(details(card, card.fields, count === 1 ? "1 field" : `${count} fields`, wasOpen));
  } else if (count) {
    element.append(fieldList(card.fields.slice(0, SHOWN_FIELDS)));
    const rest = card.fields.slice(SHOWN_FIELDS);
    if (rest.length) element.append(details(card, rest, `${rest.length} more fields`, wasOpen));
  }
  if (card.transaction) {
    const route = card.channels.length ? `${card.workflow} · ${card.channels.join(", ").replaceAll("_", "-")}` : card.workflow;
    const id = make("code", "", card.transaction);
    id.title = `transaction ${card.transaction}`;
    element.append(make("div", "foot", make("span", "", route), id));
  }
  return element;
}

function drawColumn(column, old) {
  const element = old || make("section", "");
  element.className = `column ${column.kind}`;
  if (!old) element.append(make("h2", ""), make("div", "cards"));
  const [heading, cards] = element.children;
  const words = column.name.split(/[\s._@/-]+/).filter(Boolean);
  const initials = words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join("") || "?";
  const who = make("div", "who", make("span", "", column.name));
  if (column.id !== column.name) who.append(make("small", "", column.id));
  const face = make("div", "face", column.kind === "webhook" ? "{}" : initials);
  face.setAttribute("aria-hidden", "true");
  heading.replaceChildren(face, who);
  sync(cards, column.cards, drawCard);
  return element;
}

function drawCounters(page) {
  const values = { ...page.counters, waiting: page.waiting };
  const shown = COUNTERS.filter(([key]) => values[key] || !WHEN_NOT_ZERO.has(key));
  byId("counters").replaceChildren(...shown.map(([key, name]) => {
    const warn = WARNINGS.has(key) ? "warn" : "";
    return make("div", warn, make("dt", "", name), make("dd", "", values[key].toLocaleString()));
  }));
}

function matches(preset, faults) {
  return preset.faults.length === faults.length
    && preset.faults.every((wanted, i) => faults[i].times === undefined && Object.entries(wanted).every(([key, value]) => faults[i][key] === value));
}

function drawHealth(page) {
  const preset = PRESETS.find((each) => matches(each, page.faults));
  [...byId("switches").children].forEach((button, i) => button.setAttribute("aria-pressed", String(PRESETS[i] === preset)));
  const health = byId("health");
  const custom = page.faults.map((fault) => fault.kind + (fault.times ? ` (${fault.times} left)` : "")).join(", ");
  const text = preset ? preset.says : `Faults in force: ${custom}`;
  health.textContent = page.worker === "down" ? `${text}; the worker is stopped, nothing is delivered` : text;
  health.className = page.faults.length || page.worker === "down" ? "fault" : "";
}

function draw(page) {
  skew = page.now - Date.now() / 1000;
  drawCounters(page);
  drawHealth(page);
  sync(byId("columns"), page.columns, drawColumn);
  byId("empty").hidden = page.columns.length > 0;
  document.title = page.counters.messages ? `Inbox (${page.counters.messages})` : "Inbox";
  tick();
  first = false;
}

function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h`;
}

function tick() {
  const now = Date.now() / 1000 + skew;
  for (const element of document.querySelectorAll("time")) {
    const { at, due } = element.dataset;
    const past = Math.max(0, now - Number(at));
    const text = due ? `in ${span(Math.max(0, Number(due) - now) + 0.99)}` : past < 1 ? "now" : `${span(past)} ago`;
    if (element.textContent !== text) element.textContent = text;
  }
}

async function send(path, body) {
  const headers = { "Content-Type": "application/json", Authorization: "ApiKey demo" };
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
}

function start() {
  for (const preset of PRESETS) {
    const button = make("button", preset.faults.length ? "fault" : "", preset.name);
    button.type = "button";
    button.title = preset.says;
    button.addEventListener("click", () => send("/control/faults", { faults: preset.faults }).catch(() => {}));
    byId("switches").append(button);
  }
  const message = { name: "alert", to: "ann", payload: { title: "Hello", message: "It works." } };
  byId("example").textContent = `curl -H 'Authorization: ApiKey demo' -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(message)}' \\\n  ${location.origin}/v1/events/trigger`;
  byId("send").addEventListener("click", () => send("/v1/events/trigger", message).catch(() => {}));

  const stream = new EventSource("/page/stream");
  stream.onmessage = (event) => draw(JSON.parse(event.data));
  stream.onerror = () => {
    byId("health").textContent = "Connection lost, trying again";
    byId("health").className = "lost";
  };
  setInterval(tick, 1000);
}

start();
