// The state of the server, by the stream of changes. No polling: what is not in the stream did not change.

import { server } from "./elements.js";

const SILENCE = 25_000;        // ms without a message, of which there is one each 10 s, after which the connection is dead
const AGAIN = 3_000;
const KEPT = 200;

export const live = {
  version: "", admin: false,
  transitions: [],             // newest first
  at: null,                    // when the last message came, by this clock
  problem: "",                 // why there is no connection
};

let parts = new Map();         // name -> value, as in web/live.py
let names = new Set();         // of the parts that changed since the page was drawn
let events = null;
let timer = 0;
let notify = () => {};

export const part = (name) => parts.get(name);
const those = (kind) => (part(`${kind}s`) ?? []).map((name) => part(`${kind}:${name}`)).filter(Boolean);
export const alerts = () => those("alert");
export const channels = () => those("channel");
export const alert = (name) => part(`alert:${name}`);
export const instances = () => part("instances") ?? [];
export const health = () => part("health") ?? { ready: true, reasons: [], refused: [] };
export const known = () => live.at !== null;

// Whether one of these parts changed; a name with a colon at its end means all that begin so.
export const touched = (changed, ...wanted) =>
  wanted.some((name) => (name.endsWith(":") ? [...changed].some((one) => one.startsWith(name)) : changed.has(name)));

function received(event) {
  const message = JSON.parse(event.data);
  if ("version" in message) {  // the first one, which has everything
    [parts, names] = [new Map(), new Set(["everything"])];
    Object.assign(live, { version: message.version, admin: message.admin, transitions: [] });
  }
  for (const [name, value] of Object.entries(message.parts)) {
    parts.set(name, value);
    names.add(name);
  }
  live.transitions = [...message.transitions.reverse(), ...live.transitions].slice(0, KEPT);
  server.skew = Date.parse(message.time) - Date.now();
  live.at = Date.now();
  if (live.problem) names.add("problem");
  live.problem = "";
  draw();
}

let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const changed = names;
    names = new Set();
    notify(changed);
  });
}

function connect() {
  clearTimeout(timer);
  events?.close();
  if (document.hidden) return; // a browser has six connections to a server for all of its tabs
  events = new EventSource("api/v1/live");
  const mine = events;
  events.addEventListener("change", received);
  events.addEventListener("error", () => {
    if (mine === events) lost("");
  });
  timer = setTimeout(watch, SILENCE);
}

function watch() {
  if (Date.now() - (live.at ?? 0) >= SILENCE) lost("it has been silent for half a minute");
  else timer = setTimeout(watch, 5_000);
}

async function lost(why) {
  events.close();
  clearTimeout(timer);
  timer = setTimeout(connect, AGAIN);
  let text = why;
  try {
    const answer = await fetch("api/v1/live", { method: "HEAD", signal: AbortSignal.timeout(2_000) });
    if (!answer.ok) text = `it answered ${answer.status}`;
  } catch {
    text ||= "no connection";
  }
  live.problem = text || "the connection was cut";
  names.add("problem");
  draw();
}

// `changed` is called with the names of the parts that changed, once a frame.
export function follow(changed) {
  notify = changed;
  connect();
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return connect();
    events?.close();
    clearTimeout(timer);
  });
}
