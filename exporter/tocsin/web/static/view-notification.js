// One notification: what it is about, the request, the attempts with their answers, what comes next.

import { block, button, empty, labels, make, moment, part, plain, plural, show, summary, tag } from "./elements.js";
import { KINDS, STATUS_TAGS, answers, next, request, route, sentences } from "./life.js";
import { live, touched } from "./live.js";
import { fetchJson, fetcher } from "./requests.js";
import { address } from "./router.js";

const CHANGES = { fired: "it had been there for as long as `for`", updated: "the row changed", resolved: "the row was gone", repeated: "the row still fired, and was due to be repeated" };

export const title = () => "Notification";
export const unsearchable = true;

export function open(main, { path: [id = ""] }) {
  const body = make("div", {});
  const said = make("p", { class: "found", role: "status" });
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Notification ", make("span", { class: "code" }, plain(id))), said, body));
  const where = `api/v1/notifications/${encodeURIComponent(id)}`;
  const fetch = fetcher((found, error) => show(body, { found, error, admin: live.admin }, () =>
    error ? empty(make("span", { class: "why bad" }, plain(error))) : all(found, live.admin ? act : null)));

  async function act(action) {
    if (action === "drop" && !confirm("Drop this notification? It will not be delivered.")) return;
    try {
      await fetchJson(`${where}/${action}`, { method: "POST" });
      said.textContent = action === "drop" ? "It is dropped." : "It will be sent again.";
    } catch (error) {
      said.textContent = error.message;
    }
    fetch(where);
  }

  return (changed) => {
    if (!body.childElementCount || touched(changed, "everything", "problem", "channel:")) fetch(where);
  };
}

// `act`: what the buttons do; null where nothing may be changed.
function all(found, act) {
  return [
    part(head(found, act)),
    part([make("h3", {}, "Life"), life(found), ...sentences(found.says), ...answers(found), ...(found.next?.at ? next(found.next) : [])]),
    found.route ? part([make("h3", {}, "Route"), ...route(found.route)]) : "",
    found.request || found.request_error ? part(request(found)) : "",
    part([make("h3", {}, "Row"), block(JSON.stringify(found.row, null, 2)),
      ...(found.previous ? [make("h3", {}, "Row before"), block(JSON.stringify(found.previous, null, 2))] : [])]),
  ];
}

function head(found, act) {
  const acts = act && found.status !== "delivered" ? make("span", { class: "push acts" },
    found.status === "pending" ? null : button("Retry", "retry", () => act("retry")),
    found.status === "dropped" ? null : button("Drop", "drop", () => act("drop"))) : null;
  return [
    make("div", { class: "line" },
      tag(found.status, STATUS_TAGS[found.status]),
      make("a", { class: "name", href: address("alerts", [found.alert]), "data-key": "alert" }, plain(found.alert)), tag(found.kind, KINDS[found.kind]),
      make("span", {}, "to ", make("a", { href: address("channels", [], { q: found.channel }), "data-key": "channel" }, plain(found.channel))), acts),
    summary(found), labels(found.labels, found.value),
    found.reason ? make("p", { class: found.status === "dead" ? "why bad" : "why" }, `${found.reason}: `, plain(found.detail || "no details")) : null,
    make("div", { class: "facts" }, make("span", {}, plural(found.attempts, "attempt")),
      make("a", { href: address("explain", [found.alert, found.fingerprint]), "data-key": "why" }, "why the row fires")),
  ];
}

function life(found) {
  const steps = [
    [found.started_at, found.kind === "event" ? "the event happened" : "the row began to fire"],
    found.at === found.started_at ? null : [found.at, CHANGES[found.kind] ?? found.kind],
    [found.created_at, "written to the outbox"],
    found.settled_at ? [found.settled_at, found.status === "dead" ? "became a dead letter" : found.status] : null,
  ];
  return make("ol", { class: "steps" }, ...steps.filter(Boolean).map(([at, what]) => make("li", {}, moment(at), " ", what)));
}
