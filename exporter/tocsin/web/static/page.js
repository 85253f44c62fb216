// The status page. It polls the API every two seconds and listens for transitions; every change draws the page again.

import { $, ago, counted, make, plain, plural, server, show } from "./elements.js";
import { begin, few, filtering, foundAlerts, foundChannels, foundGroups, foundInstances, foundRecords, orderedAlerts, orderedChannels } from "./lists.js";
import { alerts, channels, deadLetters, firing, instances, transitions, trouble, unready, verdict, withCounts } from "./parts.js";
import { fetchJson } from "./requests.js";

const POLL = 2_000;
const ROWS = 50;
const RECENT = 40;

let status = null;             // the last answers
let rows = [];
let dead = { counted: "", at: 0, list: [], error: "" };
let recent = [];
let lastAnswer = null;         // when the server last answered, by this clock

// Only what a card shows, so that it is not rebuilt because the clock went on.
const pick = ({ name, source, state, firing, pending, last_progress }) =>
  ({ name, source, state, firing, pending, last_progress: state === "up" ? null : last_progress });
const lean = ({ labels, value, phase, started_at, summary }) => ({ labels, value, phase, started_at, summary });

// How many a section has, in its title and in the list of sections.
function count(section, found, all, what = "") {
  const text = filtering() ? `${counted(found)} of ${counted(all)}` : counted(all);
  $(`${section}-count`).textContent = text + what;
  $(`${section}-link`).textContent = text;
}

function draw() {
  drawRecent();
  if (status === null) return;
  const ordered = orderedAlerts(status.alerts);
  const blind = status.alerts.filter((alert) => alert.state !== "up").length;
  const total = status.channels.reduce((sum, channel) => sum + channel.dead, 0);
  const firingNow = ordered
    .map((alert) => ({ alert: pick(alert), rows: rows.filter((row) => row.alert === alert.name).map(lean) }))
    .filter((group) => group.rows.length);
  const found = {
    groups: withCounts(foundGroups(firingNow)),
    alerts: foundAlerts(ordered),
    channels: foundChannels(orderedChannels(status.channels)),
    dead: foundRecords(dead.list),
    instances: foundInstances(status.instances),
  };
  const machine = status.instances.find((one) => one.this)?.host;
  const several = status.instances.length > 1;
  verdict(status);
  trouble(status);
  unready(status.reasons);
  const groups = few("groups", found.groups);
  show("firing", { groups: found.groups, shown: groups, blind, configured: status.alerts.length, filter: filtering() }, firing);
  show("alerts", { list: found.alerts, count: few("alerts", found.alerts), configured: status.alerts.length, several }, alerts);
  show("channels", { list: found.channels, count: few("channels", found.channels), configured: status.channels.length }, channels);
  show("dead",
    { list: found.dead, known: dead.list.length, error: dead.error, total, admin: status.admin, count: few("dead", found.dead) },
    deadLetters(status.admin ? change : null));
  for (const id of ["instances-part", "instances-nav"]) $(id).hidden = !several;
  show("instances", { list: found.instances, count: few("instances", found.instances), machine }, instances);
  count("firing", found.groups.length, firingNow.length, firingNow.length === 1 ? " alert" : " alerts");
  count("alerts", found.alerts.length, status.alerts.length);
  count("channels", found.channels.length, status.channels.length);
  count("instances", found.instances.length, status.instances.length);
  count("dead", found.dead.length, filtering() ? dead.list.length : total);
  $("matches").textContent = filtering()
    ? `${plural(found.alerts.length, "alert")}, ${plural(found.channels.length, "channel")} found, rows of ${plural(found.groups.length, "alert")}`
    : "";
  $("version").textContent = status.version ? `Tocsin ${status.version}` : "";
}

function drawRecent() {
  const found = foundRecords(recent);
  show("recent", { list: found, known: recent.length, count: few("recent", found) }, transitions);
  count("recent", found.length, recent.length);
}

async function change(button, id, action) {
  if (action === "drop" && !window.confirm("Drop this notification? It will not be delivered.")) return;
  const item = button.closest("li");
  for (const each of item.querySelectorAll("button")) each.disabled = true;
  try {
    await fetchJson(`api/v1/notifications/${encodeURIComponent(id)}/${action}`, { method: "POST" });
    dead.counted = "";
    await poll();
  } catch (error) {
    item.append(make("div", { class: "why bad" }, plain(error.message)));
    for (const each of item.querySelectorAll("button")) each.disabled = false;
  }
}

// Polling.

async function fetchDead(total, counts) {
  // The list needs a query in the ledger, so fetch it when a count changed, and every 15 s.
  if (counts === dead.counted && Date.now() - dead.at < 15_000) return;
  dead = { counted: counts, at: Date.now(), list: [], error: "" };
  if (!total) return;
  try {
    dead.list = (await fetchJson("api/v1/dead-letters?limit=20")).notifications;
  } catch (error) {
    dead.error = `The dead letters cannot be read: ${error.message}`;
  }
}

async function poll() {
  const [answer, found] = await Promise.all([fetchJson("api/v1/status"), fetchJson(`api/v1/firing?limit=${ROWS}`)]);
  const counts = answer.channels.map((channel) => [channel.name, channel.dead]);
  await fetchDead(counts.reduce((sum, [, count]) => sum + count, 0), JSON.stringify([counts, answer.admin]));
  server.skew = Date.parse(answer.time) - Date.now();
  lastAnswer = Date.now();
  const first = status === null;
  [status, rows] = [answer, found.firing];
  draw();
  // The browser went there before there was anything above it.
  if (first && location.hash) $(location.hash.slice(1))?.scrollIntoView();
}

let failed = "";
let refreshing = false;

async function refresh() {
  if (refreshing || document.hidden) return;
  refreshing = true;
  try {
    await poll();
    failed = "";
  } catch (error) {
    failed = error.message;
  }
  refreshing = false;
  $("lost").hidden = !failed;
  $("lost").textContent = failed && `Tocsin does not answer (${failed}). ${lastAnswer ? `The page shows the state of ${new Date(lastAnswer).toLocaleTimeString()}.` : ""}`;
  document.querySelector("main").classList.toggle("old", Boolean(failed));
  $("fresh").textContent = lastAnswer === null ? "" : `as of ${new Date(lastAnswer).toLocaleTimeString()}`;
}

let soon = 0;

function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(refresh, 150);
}

let drawing = false;

function listen() {
  const events = new EventSource("api/v1/transitions");
  events.addEventListener("open", () => { recent = []; });
  events.addEventListener("transition", (event) => {
    recent = [JSON.parse(event.data), ...recent].slice(0, RECENT);
    refreshSoon();
    if (!drawing) requestAnimationFrame(() => { drawing = false; drawRecent(); });
    drawing = true;
  });
  events.addEventListener("error", () => {
    // The browser reconnects after a lost connection, but not after an answer that is not a stream.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5_000);
  });
}

begin(draw);
draw();
setInterval(refresh, POLL);
setInterval(() => {
  for (const element of document.querySelectorAll("time[data-suffix]")) {
    element.textContent = ago(element.dateTime) + element.dataset.suffix;
  }
}, 1_000);
document.addEventListener("visibilitychange", refreshSoon);
refresh();
listen();
