// The parts of the page. Each shows what it is given, and nothing else of the page's state.

import { $, button, card, clock, counted, empty, labels, later, link, long, make, number, plain, plural, show, since, summary, tag } from "./elements.js";
import { attemptsOf, historyButton } from "./dialog.js";
import { few, fewRows, filtering, more } from "./lists.js";

const ALERT_TAGS = { up: "good", starting: "warn", error: "bad", stale: "bad", refusing: "bad" };
const CHANNEL_TAGS = { up: "good", paused: "bad", refusing: "bad", failing: "warn", removed: "warn" };
const KIND_TAGS = { fired: "bad", updated: "warn", resolved: "good", repeated: "", event: "info" };
const PHASES = { pending: "pending", keeping: "gone, kept firing" };

const nothingFound = () => empty("The filter finds none.");

// The heading.

export function verdict(status) {
  const firing = status.alerts.reduce((sum, alert) => sum + alert.firing, 0);
  const blind = status.alerts.filter((alert) => alert.state !== "up").length;
  const [text, mood] =
    firing ? [`${counted(firing)} firing`, "bad"]
    : !status.alerts.length ? ["No alerts configured", "warn"]
    : blind ? [`None known to fire, ${plural(blind, "alert")} without current rows`, "warn"]
    : ["Nothing fires", "good"];
  $("verdict").textContent = text;
  $("verdict").className = mood;
  document.title = firing ? `(${counted(firing)}) Tocsin` : "Tocsin";
}

export function trouble(status) {
  const halted = status.channels.filter((channel) => channel.state !== "up" && channel.state !== "removed").length;
  const parked = status.channels.reduce((sum, channel) => sum + channel.dead, 0);
  $("trouble").hidden = !halted && !parked;
  show("trouble", { halted, parked }, () => [
    halted ? make("a", { href: "#channels-title", "data-key": "halted" }, `${plural(halted, "channel")} not delivering`) : "",
    halted && parked ? ", " : "",
    parked ? make("a", { href: "#dead-title", "data-key": "parked" }, plural(parked, "dead letter")) : "",
  ]);
}

export function unready(reasons) {
  $("unready").hidden = !reasons.length;
  const count = few("reasons", reasons, 5);
  show("unready", { reasons, count }, () => [
    make("strong", {}, "Not ready"),
    make("ul", {}, ...reasons.slice(0, count).map((reason) => make("li", {}, plain(reason)))),
    more("reasons", count, reasons.length, reasons.length) ?? "",
  ]);
}

// Alerts and channels.

function alertFacts(alert, several) {
  const facts = [make("span", {}, "source ", plain(alert.source))];
  if (several && alert.leader) {
    facts.push(make("span", {}, "led by ", alert.leader.this ? "this process" : plain(alert.leader.name)));
  }
  if (alert.events !== null) {
    facts.push(make("span", {}, "last event ", since(alert.last_progress, " ago")), historyButton(alert.name));
    return make("div", { class: "facts" }, ...facts);
  }
  if (alert.pending) facts.push(make("span", {}, `${counted(alert.pending)} pending`));
  if (alert.dropped) {
    facts.push(make("span", { class: "warn" }, `${counted(alert.dropped)} of ${plural(alert.series + alert.dropped, "series", "series")} over max_series`));
  } else facts.push(make("span", {}, plural(alert.series, "series", "series")));
  if (alert.gaps) facts.push(make("span", { class: "warn" }, plural(alert.gaps, "gap")));
  facts.push(make("span", {}, "progress ", since(alert.last_progress, " ago")), historyButton(alert.name));
  return make("div", { class: "facts" }, ...facts);
}

function firingCount(alert) {
  if (alert.events !== null) return make("span", {}, plural(alert.events, "event"));
  return alert.firing ? `${counted(alert.firing)} firing` : make("span", { class: "none" }, "none firing");
}

function alertItem(alert, several) {
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(alert.name)), tag(alert.state, ALERT_TAGS[alert.state]),
      make("span", { class: "push" }, firingCount(alert))),
    alert.message ? make("div", { class: alert.state === "up" ? "why" : "why bad" }, plain(alert.message)) : null,
    alertFacts(alert, several));
}

// `several`: whether several processes share the alerts.
export function alerts({ list, count, configured, several }) {
  if (!configured) {
    return empty("No alerts are configured. Add one under ", make("code", {}, "alerts:"), " in the configuration and reload.");
  }
  if (!list.length) return nothingFound();
  return card(make("ul", { class: "list" }, ...list.slice(0, count).map((alert) => alertItem(alert, several))), more("alerts", count, list.length, list.length));
}

function channelItem(channel) {
  const facts = channel.state === "removed" ? [] : [make("span", {}, `${counted(channel.delivered)} delivered`)];
  if (channel.failed) facts.push(make("span", {}, plural(channel.failed, "failed attempt")));
  if (channel.dead) {
    facts.push(make("a", { class: "bad", href: "#dead-title", "data-key": `dead ${channel.name}` }, plural(channel.dead, "dead letter")));
  }
  if (channel.last_delivery) facts.push(make("span", {}, "last delivery ", since(channel.last_delivery, " ago")));
  const waiting = channel.pending
    ? make("span", {}, `${counted(channel.pending)} pending, ${later(channel.oldest_pending) ? "due" : "oldest"} `, since(channel.oldest_pending))
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

export function channels({ list, count, configured }) {
  if (!configured) {
    return empty("No channels: rows show as gauges only. To send notifications, add one under ",
      make("code", {}, "channels:"), " and name it in an alert's ", make("code", {}, "notify:"), ".");
  }
  if (!list.length) return nothingFound();
  return card(make("ul", { class: "list" }, ...list.slice(0, count).map(channelItem)),
    more("channels", count, list.length, list.length));
}

// Processes that share the ledger.

const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])$/;

// The page of another process, or its address as text where the browser would reach another machine under it.
function address(one, machine) {
  const host = /^https?:/.test(one.address) && URL.canParse(one.address) ? new URL(one.address).hostname : "";
  const reached = host && (!LOOPBACK.test(host) || (LOOPBACK.test(location.hostname) && one.host === machine));
  return reached && !one.this ? make("a", { href: one.address, "data-key": `instance ${one.name}` }, plain(one.address)) : plain(one.address);
}

function instanceItem(one, machine) {
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(one.name)), one.this ? tag("this one") : null,
      make("span", { class: "push" }, one.leads.length ? `leads ${plural(one.leads.length, "alert")}` : make("span", { class: "none" }, "leads none"))),
    make("div", { class: "facts" }, make("span", {}, address(one, machine)), make("span", {}, "since ", since(one.since, " ago"))));
}

// `machine`: the host of the process that shows the page.
export function instances({ list, count, machine }) {
  if (!list.length) return nothingFound();
  return card(make("ul", { class: "list" }, ...list.slice(0, count).map((one) => instanceItem(one, machine))),
    more("instances", count, list.length, list.length));
}

// Firing rows.

function firingTable(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.labels)))];
  const valued = rows.some((row) => row.value !== null);
  const head = [...names.map((name) => make("th", { scope: "col" }, name)),
    valued ? make("th", { class: "number", scope: "col" }, "value") : null, make("th", { class: "since", scope: "col" }, "since")];
  const cells = (row) => [
    ...names.map((name) => make("td", { "data-name": name },
      row.labels[name] ? long(row.labels[name]) : make("span", { class: "none" }, "–"))),
    valued ? make("td", { class: "number", "data-name": "value" }, make("span", {}, number(row.value ?? "–"))) : null,
    make("td", { class: "since", "data-name": "since" },
      make("span", {}, since(row.started_at), ...(PHASES[row.phase] ? [" ", tag(PHASES[row.phase], "warn")] : [])))];
  const line = (row) => make("tbody", row.phase === "firing" ? {} : { class: "quiet" },
    row.summary ? make("tr", { class: "about" }, make("th", { scope: "rowgroup", colspan: names.length + valued + 1 }, summary(row))) : null,
    make("tr", { class: row.summary ? "under" : "" }, ...cells(row).filter(Boolean)));
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...head.filter(Boolean))), ...rows.map(line)));
}

function firingCard({ alert, rows, count, known }) {
  const exist = Math.max(alert.firing + alert.pending, known);
  const all = `api/v1/firing?alert=${encodeURIComponent(alert.name)}&limit=1000`;
  return card(
    make("h3", {}, plain(alert.name), tag(`${counted(alert.firing)} firing`, alert.firing ? "bad" : ""),
      alert.pending ? tag(`${counted(alert.pending)} pending`, "warn") : null),
    alert.state === "up" ? null
      : make("div", { class: "why bad" }, "These rows are not current: last progress ", since(alert.last_progress, " ago"), "."),
    firingTable(rows.slice(0, count)),
    rows.length < known
      ? more(`alert ${alert.name}`, count, rows.length, rows.length)
      : more(`alert ${alert.name}`, count, rows.length, exist, all),
    rows.length < known && known < exist
      ? make("div", { class: "more" }, `The filter sees the newest ${counted(known)} of ${counted(exist)} rows. `, make("a", { href: all }, "More as JSON"))
      : null);
}

export function firing({ groups, blind, configured }) {
  const count = few("groups", groups);
  if (groups.length) {
    const line = more("groups", count, groups.length, groups.length);
    return [...groups.slice(0, count).map(firingCard), line ? card(make("div", { class: "alone" }, "Alerts that fire: ", line)) : ""];
  }
  if (!configured) return empty("Nothing can fire before an alert is configured.");
  if (filtering()) return nothingFound();
  if (blind) return empty(`No known row fires, but ${blind} of ${plural(configured, "alert")} without current rows. See the reason under Alerts.`);
  return empty("Nothing fires. Rows show here as soon as they are in one of the views.");
}

export const withCounts = (groups) => groups.map((group) => ({ ...group, count: fewRows(group, groups) }));

// Notifications.

function deadItem(record, act) {
  const acts = act && make("span", { class: "push acts" },
    button("Retry", `retry ${record.id}`, (event) => act(event.target, record.id, "retry")),
    button("Drop", `drop ${record.id}`, (event) => act(event.target, record.id, "drop")));
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(record.alert)), tag(record.kind, KIND_TAGS[record.kind]),
      make("span", {}, "to ", plain(record.channel))),
    summary(record),
    labels(record.labels, record.value),
    make("div", { class: "why bad" }, `${record.reason}: `, plain(record.detail || "no details")),
    make("div", { class: "line" },
      make("span", { class: "facts" },
        make("span", {}, since(record.settled_at ?? record.at, " ago")),
        link(plural(record.attempts, "attempt"), `attempts ${record.id}`, () => attemptsOf(record.id)),
        make("span", { class: "code" }, record.id)),
      acts));
}

// `act`: what the buttons do; null where nothing may be changed.
export const deadLetters = (act) => ({ list, known, error, total, count }) => {
  if (error) return empty(make("span", { class: "why bad" }, plain(error)));
  if (!known) return empty("None. Notifications that cannot be delivered are kept here with the reason.");
  if (!list.length) return nothingFound();
  return card(
    make("ul", { class: "list" }, ...list.slice(0, count).map((record) => deadItem(record, act))),
    more("dead", count, list.length, Math.max(list.length < known ? list.length : total, list.length), "api/v1/dead-letters?limit=1000"),
    act ? null : make("div", { class: "more" }, "After fixing the cause, run ", make("code", {}, "tocsin outbox retry ID"),
      " to send again or ", make("code", {}, "tocsin outbox drop ID"), " to drop."));
};

function transition(record) {
  return make("li", {},
    make("div", { class: "line" },
      tag(record.kind, KIND_TAGS[record.kind]), make("span", { class: "name" }, plain(record.alert)),
      make("div", { class: "what" }, summary(record), labels(record.labels, record.value)),
      make("span", { class: "push none" }, clock(record.at))));
}

export function transitions({ list, known, count }) {
  if (!known) return empty("None since the start. They show here as they happen.");
  if (!list.length) return nothingFound();
  return card(make("ul", { class: "list" }, ...list.slice(0, count).map(transition)),
    more("recent", count, list.length, list.length));
}
