// Details in a dialog, fetched when it opens.

import { $, counted, focus, labels, link, make, moment, number, plain, span, summary, tag } from "./elements.js";
import { fetchJson } from "./requests.js";

const STATUS_TAGS = { delivered: "good", pending: "warn", dead: "bad", dropped: "" };

let wanted = 0;                // number of the request that the open dialog shows
let opener = "";               // key of what opened it

async function details(title, path, build) {
  const mine = ++wanted;
  opener = document.activeElement?.dataset.key ?? "";
  $("details-title").replaceChildren(...[title].flat());
  $("details-body").replaceChildren(make("div", { class: "empty" }, "Loading"));
  $("details").showModal();
  try {
    const answer = await fetchJson(path);
    if (mine === wanted) $("details-body").replaceChildren(build(answer));
  } catch (error) {
    if (mine === wanted) $("details-body").replaceChildren(make("div", { class: "empty why bad" }, plain(error.message)));
  }
}

function deliveries(list) {
  if (!list.length) return make("span", { class: "none" }, "–");
  return make("span", { class: "pairs" }, ...list.flatMap(({ channel, status, count }) =>
    [make("span", {}, plain(channel), " ", tag(`${counted(count)} ${status}`, STATUS_TAGS[status])), " "]));
}

const text = (value) =>
  typeof value === "string" ? value : typeof value === "number" ? number(value) : JSON.stringify(value);

const texts = (row) =>
  Object.fromEntries(Object.entries(row).slice(0, 6).map(([name, value]) => [name, text(value)]));

function episode(one) {
  const duration = one.kind === "event" ? tag("event", "info")
    : one.firing ? tag("still firing", "bad")
    : one.ended_at === null ? make("span", { class: "none" }, "ended, time not kept") : make("span", {}, span(one.seconds));
  return make("tr", {},
    make("td", { "data-name": "start" }, moment(one.started_at)),
    make("td", { "data-name": "duration" }, duration),
    make("td", { "data-name": "row" },
      make("div", {}, summary(one), labels(Object.keys(one.labels).length ? one.labels : texts(one.row)))),
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

export const historyButton = (alert) => link("history", `history ${alert}`, () => historyOf(alert));

export function attemptsOf(id) {
  details("Attempts", `api/v1/notifications/${encodeURIComponent(id)}`, ({ attempts, failed_attempts: list }) =>
    !list.length
      ? make("div", { class: "empty" }, attempts ? "The attempts are no longer kept." : "No attempt was made.")
      : make("ul", { class: "list" }, ...list.map((attempt) => make("li", {},
        make("div", { class: "line" }, moment(attempt.at), tag(attempt.reason, "bad")),
        make("div", { class: "why" }, plain(attempt.detail || "no details"))))));
}

$("details-close").addEventListener("click", () => $("details").close());
$("details").addEventListener("click", (event) => { if (event.target === $("details")) $("details").close(); });
$("details").addEventListener("close", () => focus(opener));
