// The status page. It polls the API every two seconds and listens for transitions. Text from outside becomes text nodes
// only, never markup.

const POLL = 2_000;
const TIMEOUT = 8_000;
const ROWS = 50;
const FOLDED = { dead: 5 };    // items shown of a list until it is unfolded, by its name; 10 of others
const RECENT = 40;
const LONGEST = 300;
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

const $ = (id) => document.getElementById(id);
const shown = new Map();       // what each part of the page was last made of, as JSON
let skew = 0;                  // server's clock minus this one's, in ms
let lastAnswer = null;         // when the server last answered, by this clock
let admin = false;
let recent = [];
const unfolded = new Set();    // names of the lists that show all they have
let dead = { counted: "", at: 0, list: [], error: "" };

// Making elements.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function plain(text) {
  // <bdi> keeps right-to-left text from rearranging its surroundings. Invisible characters are shown by their code.
  const whole = String(text).replace(UNSEEN, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));
  const characters = Array.from(whole.slice(0, 2 * LONGEST));
  const cut = characters.length > LONGEST || whole.length > 2 * LONGEST;
  return make("bdi", cut ? { title: whole.slice(0, 2000) } : {}, cut ? characters.slice(0, LONGEST).join("") + "…" : whole);
}

function number(value) {
  const ordinary = typeof value === "number" && Math.abs(value) < 1e15 && (Math.abs(value) >= 1e-6 || value === 0);
  return ordinary ? value.toLocaleString("en", { maximumFractionDigits: 6 }) : String(value);
}

const shownOf = (name, list) => unfolded.has(name) ? list.length : Math.min(FOLDED[name] ?? 10, list.length);

const plural = (count, one, many = one + "s") => `${number(count)} ${count === 1 ? one : many}`;

function ago(text) {
  const seconds = Math.round((Date.now() + skew - Date.parse(text)) / 1000);
  const size = Math.abs(seconds);
  const words =
    size < 60 ? `${size} s`
    : size < 3_600 ? `${Math.floor(size / 60)} min`
    : size < 86_400 ? `${Math.floor(size / 3_600)} h ${Math.floor((size % 3_600) / 60)} min`
    : `${Math.floor(size / 86_400)} d ${Math.floor((size % 86_400) / 3_600)} h`;
  return seconds < -2 ? `in ${words}` : words;
}

const later = (text) => Date.parse(text) > Date.now() + skew + 2_000;   // a merged message waits on purpose

function since(text, suffix = "") {
  if (text === null) return make("span", { class: "none" }, "–");
  return make("time", { datetime: text, title: new Date(text).toString(), "data-suffix": suffix }, ago(text) + suffix);
}

function clock(text) {
  return make("time", { datetime: text, title: text }, new Date(text).toLocaleTimeString());
}

function labels(pairs, value = null) {
  const entries = Object.entries(pairs);
  if (value !== null) entries.push(["value", number(value)]);
  if (!entries.length) return make("span", { class: "labels none" }, "no labels");
  return make("span", { class: "labels pairs" },
    ...entries.flatMap(([name, value]) => [make("span", {}, make("span", {}, `${name} `), plain(value)), " "]));
}

function card(...children) {
  return make("div", { class: "card" }, ...children);
}

function empty(...children) {
  return card(make("div", { class: "empty" }, ...children));
}

// Replace a part of the page if its content changed, but not while the user has text selected in it.
function show(id, content, build) {
  const key = JSON.stringify(content);
  const selection = document.getSelection();
  const copying = selection && !selection.isCollapsed && $(id).contains(selection.anchorNode);
  if (shown.get(id) === key || copying) return;
  shown.set(id, key);
  $(id).replaceChildren(...[build(content)].flat());
}

// The parts of the page.

const ALERT_TAGS = { up: "good", starting: "warn", error: "bad", stale: "bad", refusing: "bad" };
const CHANNEL_TAGS = { up: "good", paused: "bad", refusing: "bad", failing: "warn", removed: "warn" };
const KIND_TAGS = { fired: "bad", updated: "warn", resolved: "good", repeated: "", event: "info" };
const STATUS_TAGS = { delivered: "good", pending: "warn", dead: "bad", dropped: "" };

function tag(word, kind) {
  return make("span", { class: `tag ${kind ?? ""}` }, word);
}

function verdict(status) {
  const firing = status.alerts.reduce((sum, alert) => sum + alert.firing, 0);
  const blind = status.alerts.filter((alert) => alert.state !== "up").length;
  const [text, mood] =
    firing ? [`${number(firing)} firing`, "bad"]
    : !status.alerts.length ? ["No alerts configured", "warn"]
    : blind ? [`None known to fire, ${plural(blind, "alert")} without current rows`, "warn"]
    : ["Nothing fires", "good"];
  $("verdict").textContent = text;
  $("verdict").className = mood;
  document.title = firing ? `(${number(firing)}) Tocsin` : "Tocsin";
}

function trouble(status) {
  const halted = status.channels.filter((channel) => channel.state !== "up" && channel.state !== "removed").length;
  const parked = status.channels.reduce((sum, channel) => sum + channel.dead, 0);
  const parts = [halted ? `${plural(halted, "channel")} not delivering` : "", parked ? plural(parked, "dead letter") : ""];
  $("trouble").textContent = parts.filter(Boolean).join(", ");
  $("trouble").hidden = !halted && !parked;
}

function unready(reasons) {
  $("unready").hidden = !reasons.length;
  show("unready", reasons, () => [
    make("strong", {}, "Not ready"), make("ul", {}, ...reasons.map((reason) => make("li", {}, plain(reason)))),
  ]);
}

function alertFacts(alert) {
  const facts = [make("span", {}, "source ", plain(alert.source))];
  if (alert.events !== null) {
    facts.push(make("span", {}, "last event ", since(alert.last_progress, " ago")), historyButton(alert.name));
    return make("div", { class: "facts" }, ...facts);
  }
  if (alert.pending) facts.push(make("span", {}, `${number(alert.pending)} pending`));
  if (alert.dropped) {
    facts.push(make("span", { class: "warn" }, `${number(alert.dropped)} of ${plural(alert.series + alert.dropped, "series", "series")} over max_series`));
  } else facts.push(make("span", {}, plural(alert.series, "series", "series")));
  if (alert.gaps) facts.push(make("span", { class: "warn" }, plural(alert.gaps, "gap")));
  facts.push(make("span", {}, "progress ", since(alert.last_progress, " ago")), historyButton(alert.name));
  return make("div", { class: "facts" }, ...facts);
}

function count(alert) {
  if (alert.events !== null) return make("span", {}, plural(alert.events, "event"));
  return alert.firing ? `${number(alert.firing)} firing` : make("span", { class: "none" }, "none firing");
}

function alertItem(alert) {
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(alert.name)), tag(alert.state, ALERT_TAGS[alert.state]),
      make("span", { class: "push" }, count(alert))),
    alert.message ? make("div", { class: alert.state === "up" ? "why" : "why bad" }, plain(alert.message)) : null,
    alertFacts(alert));
}

function alerts(list) {
  if (!list.length) {
    return empty("No alerts are configured. Add one under ", make("code", {}, "alerts:"), " in the configuration and reload.");
  }
  return card(make("ul", { class: "list" }, ...list.map(alertItem)));
}

function channelItem(channel) {
  const facts = channel.state === "removed" ? [] : [make("span", {}, `${number(channel.delivered)} delivered`)];
  if (channel.failed) facts.push(make("span", {}, plural(channel.failed, "failed attempt")));
  if (channel.dead) facts.push(make("span", { class: "bad" }, plural(channel.dead, "dead letter")));
  if (channel.last_delivery) facts.push(make("span", {}, "last delivery ", since(channel.last_delivery, " ago")));
  const waiting = channel.pending
    ? make("span", {}, `${number(channel.pending)} pending, ${later(channel.oldest_pending) ? "due" : "oldest"} `, since(channel.oldest_pending))
    : make("span", { class: "none" }, "none pending");
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(channel.name)),
      !channel.type || channel.type === channel.name ? null : make("span", { class: "none" }, plain(channel.type)),
      tag(channel.state, CHANNEL_TAGS[channel.state]),
      make("span", { class: "push" }, waiting)),
    channel.message ? make("div", { class: CHANNEL_TAGS[channel.state] === "bad" ? "why bad" : "why" }, plain(channel.message)) : null,
    make("div", { class: "facts" }, ...facts));
}

function channels(list) {
  if (!list.length) {
    return empty("No channels: rows show as gauges only. To send notifications, add one under ",
      make("code", {}, "channels:"), " and name it in an alert's ", make("code", {}, "notify:"), ".");
  }
  return card(make("ul", { class: "list" }, ...list.map(channelItem)));
}

const PHASES = { pending: "pending", keeping: "gone, kept firing" };

function firingTable(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.labels)))];
  const valued = rows.some((row) => row.value !== null);
  const head = [...names.map((name) => make("th", {}, name)), valued ? make("th", { class: "number" }, "value") : null,
    make("th", { class: "since" }, "since")];
  const line = (row) => make("tr", row.phase === "firing" ? {} : { class: "quiet" },
    ...names.map((name) => make("td", { "data-name": name },
      row.labels[name] ? plain(row.labels[name]) : make("span", { class: "none" }, "–"))),
    valued ? make("td", { class: "number", "data-name": "value" }, make("span", {}, number(row.value ?? "–"))) : null,
    make("td", { class: "since", "data-name": "since" },
      make("span", {}, since(row.started_at), ...(PHASES[row.phase] ? [" ", tag(PHASES[row.phase], "warn")] : []))));
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.filter(Boolean))), make("tbody", {}, ...rows.map(line))));
}

// The line below a list of which more is known, or exists, than is shown.
function more(list, count, known, total, all) {
  if (count >= total) return null;
  return make("div", { class: "more" }, `${number(count)} of ${number(total)} `,
    count < known ? make("button", { type: "button", onclick: () => { unfolded.add(list); showRecent(); refresh(); } }, `Show ${known}`) : null, " ",
    total > known ? make("a", { href: all }, "More as JSON") : null);
}

function firingCard({ alert, rows, count }) {
  return card(
    make("h3", {}, plain(alert.name), tag(`${number(alert.firing)} firing`, alert.firing ? "bad" : ""),
      alert.pending ? tag(`${number(alert.pending)} pending`, "warn") : null),
    alert.state === "up" ? null
      : make("div", { class: "why bad" }, "These rows are not current: last progress ", since(alert.last_progress, " ago"), "."),
    firingTable(rows.slice(0, count)),
    more(`alert ${alert.name}`, count, rows.length, Math.max(alert.firing + alert.pending, rows.length),
      `api/v1/firing?alert=${encodeURIComponent(alert.name)}&limit=1000`));
}

function firing({ groups, blind, configured }) {
  if (groups.length) return groups.map(firingCard);
  if (!configured) return empty("Nothing can fire before an alert is configured.");
  if (blind) return empty(`No known row fires, but ${blind} of ${plural(configured, "alert")} without current rows. See the reason under Alerts.`);
  return empty("Nothing fires. Rows show here as soon as they are in one of the views.");
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

function deadItem(record) {
  const act = (action, text) => make("button", { type: "button", onclick: (event) => change(event.target, record.id, action) }, text);
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(record.alert)), tag(record.kind, KIND_TAGS[record.kind]),
      make("span", {}, "to ", plain(record.channel))),
    labels(record.labels, record.value),
    make("div", { class: "why bad" }, `${record.reason}: `, plain(record.detail || "no details")),
    make("div", { class: "line" },
      make("span", { class: "facts" },
        make("span", {}, since(record.settled_at ?? record.at, " ago")),
        link(plural(record.attempts, "attempt"), () => attemptsOf(record.id)), make("span", { class: "code" }, record.id)),
      admin ? make("span", { class: "push acts" }, act("retry", "Retry"), act("drop", "Drop")) : null));
}

function deadLetters({ list, error, total, count }) {
  if (error) return empty(make("span", { class: "why bad" }, plain(error)));
  if (!list.length) return empty("None. Notifications that cannot be delivered are kept here with the reason.");
  return card(
    make("ul", { class: "list" }, ...list.slice(0, count).map(deadItem)),
    more("dead", count, list.length, Math.max(total, list.length), "api/v1/dead-letters?limit=1000"),
    admin ? null : make("div", { class: "more" }, "After fixing the cause, run ", make("code", {}, "tocsin outbox retry ID"),
      " to send again or ", make("code", {}, "tocsin outbox drop ID"), " to drop."));
}

function transition(record) {
  return make("li", { class: "line" },
    tag(record.kind, KIND_TAGS[record.kind]), make("span", { class: "name" }, plain(record.alert)),
    labels(record.labels, record.value), make("span", { class: "push none" }, clock(record.at)));
}

function transitions({ list, count }) {
  if (!list.length) return empty("None since the start. They show here as they happen.");
  return card(make("ul", { class: "list" }, ...list.slice(0, count).map(transition)),
    more("recent", count, list.length, list.length));
}

const showRecent = () => show("recent", { list: recent, count: shownOf("recent", recent) }, transitions);

// Details in a dialog, fetched when it opens.

function link(text, onclick) {
  return make("button", { type: "button", class: "link", onclick }, text);
}

const historyButton = (alert) => link("history", () => historyOf(alert));

let wanted = 0;                // number of the request that the open dialog shows

async function details(title, path, build) {
  const mine = ++wanted;
  $("details-title").replaceChildren(...[title].flat());
  $("details-body").replaceChildren(make("div", { class: "empty" }, "Loading"));
  $("details").showModal();
  try {
    const found = await fetchJson(path);
    if (mine === wanted) $("details-body").replaceChildren(build(found));
  } catch (error) {
    if (mine === wanted) $("details-body").replaceChildren(make("div", { class: "empty why bad" }, plain(error.message)));
  }
}

function moment(text) {
  return make("time", { datetime: text, title: text }, new Date(text).toLocaleString());
}

function span(seconds) {
  return seconds < 60 ? `${number(Math.round(seconds * 10) / 10)} s`
    : seconds < 3_600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

function deliveries(list) {
  if (!list.length) return make("span", { class: "none" }, "–");
  return make("span", { class: "pairs" }, ...list.flatMap(({ channel, status, count }) =>
    [make("span", {}, plain(channel), " ", tag(`${number(count)} ${status}`, STATUS_TAGS[status])), " "]));
}

const texts = (row) => Object.fromEntries(
  Object.entries(row).slice(0, 6).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]));

function episode(one) {
  const duration = one.kind === "event" ? tag("event", "info")
    : one.firing ? tag("still firing", "bad")
    : one.ended_at === null ? make("span", { class: "none" }, "ended, time not kept") : make("span", {}, span(one.seconds));
  return make("tr", {},
    make("td", { "data-name": "start" }, moment(one.started_at)),
    make("td", { "data-name": "duration" }, duration),
    make("td", { "data-name": "row" }, labels(Object.keys(one.labels).length ? one.labels : texts(one.row))),
    make("td", { "data-name": "deliveries" }, deliveries(one.deliveries)));
}

function historyOf(alert) {
  details(["History of ", plain(alert)], `api/v1/history/${encodeURIComponent(alert)}?limit=50`, ({ episodes }) =>
    !episodes.length
      ? make("div", { class: "empty" }, "No notifications of this alert are kept.")
      : make("div", { class: "scroll" }, make("table", {},
        make("thead", {}, make("tr", {}, ...["start", "duration", "row", "deliveries"].map((name) => make("th", {}, name)))),
        make("tbody", {}, ...episodes.map(episode)))));
}

function attemptsOf(id) {
  details("Attempts", `api/v1/notifications/${encodeURIComponent(id)}`, ({ attempts, failed_attempts: list }) =>
    !list.length
      ? make("div", { class: "empty" }, attempts ? "The attempts are no longer kept." : "No attempt was made.")
      : make("ul", { class: "list" }, ...list.map((attempt) => make("li", {},
        make("div", { class: "line" }, moment(attempt.at), tag(attempt.reason, "bad")),
        make("div", { class: "why" }, plain(attempt.detail || "no details"))))));
}

$("details-close").addEventListener("click", () => $("details").close());
$("details").addEventListener("click", (event) => { if (event.target === $("details")) $("details").close(); });

// Polling.

async function fetchJson(path, options = {}) {
  const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT) });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? `the server answered ${response.status}`);
  return body;
}

async function fetchDead(total, counted) {
  // The list needs a query in the ledger, so fetch it when a count changed, and every 15 s.
  if (counted === dead.counted && Date.now() - dead.at < 15_000) return;
  dead = { counted, at: Date.now(), list: [], error: "" };
  if (!total) return;
  try {
    dead.list = (await fetchJson("api/v1/dead-letters?limit=20")).notifications;
  } catch (error) {
    dead.error = `The dead letters cannot be read: ${error.message}`;
  }
}

async function poll() {
  const [status, rows] = await Promise.all([fetchJson("api/v1/status"), fetchJson(`api/v1/firing?limit=${ROWS}`)]);
  const counts = status.channels.map((channel) => [channel.name, channel.dead]);
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  await fetchDead(total, JSON.stringify([counts, status.admin]));
  skew = Date.parse(status.time) - Date.now();
  lastAnswer = Date.now();
  admin = status.admin;
  const groups = status.alerts
    .map((alert) => ({ alert: pick(alert), rows: rows.firing.filter((row) => row.alert === alert.name).map(lean) }))
    .filter((group) => group.rows.length)
    .map((group) => ({ ...group, count: shownOf(`alert ${group.alert.name}`, group.rows) }));
  const blind = status.alerts.filter((alert) => alert.state !== "up").length;
  verdict(status);
  trouble(status);
  unready(status.reasons);
  show("firing", { groups, blind, configured: status.alerts.length }, firing);
  show("alerts", status.alerts, alerts);
  show("channels", status.channels, channels);
  show("dead", { list: dead.list, error: dead.error, total, admin, count: shownOf("dead", dead.list) }, deadLetters);
  $("version").textContent = status.version ? `Tocsin ${status.version}` : "";
}

// Only what a card shows, so that it is not rebuilt because the clock went on.
const pick = ({ name, state, firing, pending, last_progress }) =>
  ({ name, state, firing, pending, last_progress: state === "up" ? null : last_progress });
const lean = ({ labels, value, phase, started_at }) => ({ labels, value, phase, started_at });

function freshness() {
  const late = lastAnswer === null || Date.now() - lastAnswer > POLL + TIMEOUT;
  $("fresh").textContent = lastAnswer === null ? "" : `as of ${new Date(lastAnswer).toLocaleTimeString()}`;
  return late;
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
  freshness();
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
    if (!drawing) requestAnimationFrame(() => { drawing = false; showRecent(); });
    drawing = true;
  });
  events.addEventListener("error", () => {
    // The browser reconnects after a lost connection, but not after an answer that is not a stream.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5_000);
  });
}

showRecent();
setInterval(refresh, POLL);
setInterval(() => {
  for (const element of document.querySelectorAll("time[data-suffix]")) {
    element.textContent = ago(element.dateTime) + element.dataset.suffix;
  }
}, 1_000);
document.addEventListener("visibilitychange", refreshSoon);
refresh();
listen();
