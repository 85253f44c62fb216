// The alerts with their state over time; one alert with its history.

import { axis, legend, spark, states } from "./charts.js";
import { card, counted, empty, labels, list, make, moment, number, plain, plural, show, since, span, summary, tag } from "./elements.js";
import { STATUS_TAGS } from "./life.js";
import { alert as alertOf, alerts, instances, touched } from "./live.js";
import { fetcher } from "./requests.js";
import { address } from "./router.js";
import { chosen, range, timelines, trackOf } from "./timelines.js";
import { question } from "./view-explain.js";
import { words } from "./words.js";

const TAGS = { up: "good", starting: "warn", error: "bad", stale: "bad", refusing: "bad" };
const WORDS = {
  starting: "Waits for the first rows of its source.",
  error: "The source is tried again by itself; what changed or came meanwhile is notified then.",
  stale: "The source is silent, and the series are withdrawn from /metrics. Check that it runs; what changed meanwhile is notified when it is back.",
  refusing: "The latest messages are not valid events. Correct what sends them.",
};
const ORDER = { error: 0, stale: 0, refusing: 0, starting: 1 };

export const title = ({ path }) => path[0] ?? "Alerts";

function rank(alert) {
  if (alert.state in ORDER) return ORDER[alert.state];
  return alert.message || alert.dropped ? 2 : alert.firing ? 3 : alert.pending ? 4 : 5;
}

// Those in trouble first, then those that fire, else in the order of the configuration.
const ordered = (all) => [...all].sort((a, b) => rank(a) - rank(b));

function facts(alert, several) {
  const found = [make("span", {}, "source ", plain(alert.source))];
  if (several && alert.leader) found.push(make("span", {}, "led by ", alert.leader.this ? "this process" : plain(alert.leader.name)));
  if (alert.pending) found.push(make("span", {}, `${counted(alert.pending)} pending`));
  if (alert.dropped) found.push(make("span", { class: "warn" }, `${counted(alert.dropped)} of ${plural(alert.series + alert.dropped, "series", "series")} over max_series`));
  if (alert.gaps) found.push(make("span", { class: "warn" }, plural(alert.gaps, "gap")));
  if (alert.events !== null) found.push(make("span", {}, "last event ", since(alert.last_progress, " ago")));
  else if (alert.state !== "up") found.push(make("span", {}, "last progress ", since(alert.last_progress, " ago")));
  return make("div", { class: "facts" }, ...found);
}

function firingCount(alert) {
  if (alert.events !== null) return make("span", {}, plural(alert.events, "event"));
  if (!alert.firing) return make("span", { class: "none" }, "none firing");
  return make("a", { href: address("firing", [], { alert: alert.name }), "data-key": `firing ${alert.name}` }, `${counted(alert.firing)} firing`);
}

const why = (alert) => alert.message ? make("div", { class: alert.state === "up" ? "why" : "why bad" }, plain(alert.message)) : null;

const state = (alert) => WORDS[alert.state] ? make("div", { class: "state" }, WORDS[alert.state]) : null;

const markOf = (alert) => alert.state !== "up" ? 3 : alert.firing ? 4 : alert.pending ? 2 : 1;

function charts(alert, timeline, scale = false) {
  const track = timeline?.alerts[alert.name];
  if (!track) return make("div", { class: "charts" });
  const points = track.marks.length;
  return make("div", { class: "charts" }, states(track, timeline, markOf(alert)), scale ? axis(timeline, points) : null,
    make("div", { class: "sparks" },
      alert.events === null ? spark("firing", track.firing, points, alert.firing) : spark("events", track.firing, points, track.firing?.at(-1) ?? 0),
      alert.events === null ? spark("pending", track.pending, points, alert.pending) : null,
      spark("delay", track.delay, points, null, "seconds")));
}

function item({ alert, several, timeline }) {
  return make("li", { class: "tracked" },
    make("div", {},
      make("div", { class: "line" },
        make("a", { class: "name", href: address("alerts", [alert.name]), "data-key": `alert ${alert.name}` }, plain(alert.name)),
        tag(alert.state, TAGS[alert.state]), make("span", { class: "push" }, firingCount(alert))),
      why(alert), state(alert), facts(alert, several)),
    charts(alert, timeline));
}

export function open(main, route) {
  return route.path.length ? openOne(main, route.path[0]) : openAll(main);
}

function openAll(main) {
  let answer = null;
  let latest = {};
  const count = make("span", { class: "count" });
  const tools = make("div", { class: "tools" });
  const items = make("ul", { class: "list", id: "alerts" });
  const scale = make("div", { class: "scale" });
  const holder = make("div", { class: "card" }, scale, items);
  const nothing = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Alerts ", count), tools, holder, nothing));
  const fetch = timelines((found) => {
    answer = found ?? answer;
    drawAll();
  });

  function drawAll() {
    const has = words(latest.q);
    const all = alerts();
    const found = ordered(all).filter((one) => has(one.name, one.source, one.state, one.message, one.leader?.name, one.firing ? "firing" : ""));
    count.textContent = latest.q ? `${counted(found.length)} of ${counted(all.length)}` : counted(all.length);
    holder.hidden = !found.length;
    show(nothing, [found.length, all.length], () => (found.length ? ""
      : all.length ? empty("The search finds none.")
      : empty("No alerts are configured. Add one under ", make("code", {}, "alerts:"), " in the configuration and reload.")));
    show(tools, chosen(latest.hours), () => [range(latest.hours), legend()]);
    show(scale, [answer?.from, answer?.step], () => (answer && all.length ? axis(answer, Object.values(answer.alerts)[0]?.marks.length ?? 0) : ""));
    const several = instances().length > 1;
    list(items, found.map((alert) => ({ alert, several, timeline: trackOf(answer, "alerts", alert.name) })), (one) => one.alert.name, item);
  }

  return (changed, { query }) => {
    latest = query;
    fetch(changed, query.hours);
    if (touched(changed, "everything", "address", "alerts", "alert:", "instances")) drawAll();
  };
}

// One alert.

function openOne(main, name) {
  let answer = null;
  let asked = "";
  const about = make("div", { class: "above" });
  const tools = make("div", { class: "tools" });
  const chart = make("div", { class: "card chart" });
  const history = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("p", { class: "up" }, make("a", { href: "#/alerts" }, "All alerts")),
    make("h2", { id: "title", tabindex: "-1" }, plain(name)), about, tools, chart,
    make("p", { class: "note" }, "Before the start of Tocsin, marked by a line, only what notifications in the ledger say is known: when rows fired.")),
  make("section", { "aria-labelledby": "asking" }, make("h2", { id: "asking" }, "Explain a key"), question(name)),
  make("section", { "aria-labelledby": "history" }, make("h2", { id: "history" }, "Latest firings"), history));
  const fetch = timelines((found) => {
    answer = found ?? answer;
    drawChart();
  });
  const fetchHistory = fetcher((found, error) => show(history, { found, error }, () =>
    error ? empty(make("span", { class: "why bad" }, plain(error)))
    : found.episodes.length ? episodeTable(found.episodes, name) : empty("No notifications of this alert are kept.")));

  function drawChart() {
    const alert = alertOf(name);
    if (!alert) return;
    const timeline = trackOf(answer, "alerts", name);
    show(chart, { timeline, alert }, () => charts(alert, timeline, true));
  }

  return (changed, { query }) => {
    const alert = alertOf(name);
    if (!alert) {
      show(about, null, () => empty("There is no alert of this name."));
      return;
    }
    show(about, [alert, instances().length], () => [
      make("div", { class: "line" }, tag(alert.state, TAGS[alert.state]), firingCount(alert)), why(alert), state(alert), facts(alert, instances().length > 1)]);
    show(tools, chosen(query.hours), () => [range(query.hours), legend()]);
    fetch(changed, query.hours);
    drawChart();
    const now = JSON.stringify([alert.firing, alert.events, changed.has(`rows:${name}`)]);
    if (asked !== now) fetchHistory(`api/v1/history/${encodeURIComponent(name)}?limit=50`);
    asked = now;
  };
}

function deliveries(all) {
  if (!all.length) return make("span", { class: "none" }, "–");
  return make("span", { class: "pairs" }, ...all.flatMap(({ channel, status, count }) =>
    [make("span", {}, plain(channel), " ", tag(`${counted(count)} ${status}`, STATUS_TAGS[status])), " "]));
}

const text = (value) =>
  typeof value === "string" ? value : typeof value === "number" ? number(value) : JSON.stringify(value);

const texts = (row) =>
  Object.fromEntries(Object.entries(row).slice(0, 6).map(([name, value]) => [name, text(value)]));

function episodeTable(episodes, name) {
  return card(make("table", {},
    make("thead", {}, make("tr", {}, ...["row", "start", "duration", "deliveries"].map((one) => make("th", { scope: "col" }, one)))),
    make("tbody", {}, ...episodes.map((one) => episode(one, name)))));
}

function episode(one, name) {
  const duration = one.kind === "event" ? tag("event", "info")
    : one.firing ? tag("still firing", "bad")
    : one.ended_at === null ? make("span", { class: "none" }, "ended, time not kept") : make("span", {}, span(one.seconds));
  return make("tr", {},
    make("td", { "data-name": "row" }, make("div", {}, summary(one), labels(Object.keys(one.labels).length ? one.labels : texts(one.row)),
      " ", make("a", { href: address("explain", [name, one.fingerprint]), "aria-label": "why this row fired" }, "why"))),
    make("td", { "data-name": "start" }, moment(one.started_at)),
    make("td", { "data-name": "duration", class: "whole" }, duration),
    make("td", { "data-name": "deliveries" }, deliveries(one.deliveries)));
}

