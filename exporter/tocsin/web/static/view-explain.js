// Why a row fires or does not, and what was sent of it.

import { empty, labels, make, part, past, plain, show, since, summary, tag } from "./elements.js";
import { KINDS, STATUS_TAGS, answers, fields, next, request, route, sentences } from "./life.js";
import { touched } from "./live.js";
import { fetcher } from "./requests.js";
import { address } from "./router.js";

const VERDICTS = { firing: "bad", pending: "warn", keeping: "warn", event: "info" };
const TIMERS = { for: "The row has to be there for as long as `for`: until", keep_firing_for: "It is kept firing by `keep_firing_for`, until",
  repeat_interval: "It is notified again by `repeat_interval`," };

export const title = ({ path: [alert = ""] }) => `Why ${alert} fires`;
export const unsearchable = true;

// What was asked about: a fingerprint, or a key as its columns have it. `a=1, b=2` names columns.
function asked(fingerprint, key) {
  if (fingerprint) return `?${new URLSearchParams({ fingerprint })}`;
  if (!key) return "";
  const parts = key.split(",").map((one) => one.trim());
  const named = parts.length > 1 && parts.every((one) => one.includes("="));
  return `?${new URLSearchParams((named ? parts : [key]).map((one) => ["key", one]))}`;
}

// A form that asks about a key of an alert.
export function question(alert, key = "") {
  const field = make("input", { type: "text", id: "key", value: key, autocomplete: "off", spellcheck: "false", placeholder: "17, or order_id=17, region=eu" });
  const ask = (event) => {
    event.preventDefault();
    if (field.value.trim()) location.hash = address("explain", [alert], { key: field.value.trim() });
  };
  return make("form", { class: "tools", onsubmit: ask }, make("label", { class: "wide" }, "Why does this key (not) fire? ", field), make("button", { type: "submit" }, "Explain"));
}

export function open(main, { path: [alert = "", fingerprint = ""], query }) {
  const body = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("p", { class: "up" }, make("a", { href: address("alerts", [alert]) }, plain(alert))),
    make("h2", { id: "title", tabindex: "-1" }, "Why this row fires, or does not"), question(alert, query.key), body));
  let shown = "";
  const fetch = fetcher((found, error) => show(body, { found: found && { ...found, time: null }, error }, () =>
    error ? empty(make("span", { class: "why bad" }, plain(error))) : all(found)));
  return (changed, { query: { key } }) => {
    const where = `api/v1/explain/${encodeURIComponent(alert)}${asked(fingerprint, key)}`;
    if (shown !== where || touched(changed, "everything", "problem", `rows:${alert}`, `alert:${alert}`, "channel:")) fetch(where);
    shown = where;
  };
}

function all(found) {
  return [
    part([
      make("div", { class: "line" }, tag(found.verdict, VERDICTS[found.verdict]), make("strong", {}, plain(found.summary))),
      ...sentences(found.because), ...sentences(found.unknown),
      found.labels ? labels(found.labels, found.value ?? null) : null,
      make("div", { class: "facts" },
        found.started_at ? make("span", {}, "began ", past(found.started_at)) : null,
        found.ended_at ? make("span", {}, "ended ", past(found.ended_at)) : null,
        found.timer ? make("span", {}, `${TIMERS[found.timer.name] ?? found.timer.name} `, past(found.timer.due)) : null),
      ...next(found.next)]),
    ...(found.routes.length ? [part([make("h3", {}, "Channels"), make("ul", { class: "plain" }, ...found.routes.map((one) => make("li", {}, ...route(one))))])] : []),
    ...(found.notifications.length ? [part([make("h3", {}, "Notifications"), make("ul", { class: "plain" }, ...found.notifications.map(notification))])] : []),
    found.row ? part([make("h3", {}, "Row as received"), fields(found.row)]) : "",
    ...(found.nearest?.length ? [part([make("h3", {}, "Nearest keys"), make("ul", { class: "plain" }, ...found.nearest.map((one) =>
      make("li", {}, make("a", { href: address("explain", [found.alert, one.fingerprint]) }, plain(Object.values(one.key).join(", "))))))])] : []),
  ];
}

function notification(one) {
  return make("li", {},
    make("div", { class: "line" },
      tag(one.kind, KINDS[one.kind]), make("span", {}, "to ", plain(one.channel)), tag(one.status, STATUS_TAGS[one.status]),
      make("span", { class: "none" }, since(one.created_at, " ago")),
      make("a", { href: address("notifications", [one.id]), "data-key": `life ${one.id}` }, "its whole life")),
    summary(one), ...sentences(one.says),
    make("details", {}, make("summary", { "data-key": `more ${one.id}` }, "Request and answers"), make("div", { class: "inside" }, ...request(one), ...answers(one))));
}
