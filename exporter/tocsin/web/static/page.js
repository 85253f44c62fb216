// The status page: its frame, and which view is in it.

import * as router from "./router.js";
import { $, counted, link, make, plain, plural, show, tick } from "./elements.js";
import { alerts, channels, follow, health, instances, known, live, part } from "./live.js";
import { leave } from "./requests.js";
import * as alertView from "./view-alerts.js";
import * as channelView from "./view-channels.js";
import * as deadView from "./view-dead.js";
import * as explainView from "./view-explain.js";
import * as firingView from "./view-firing.js";
import * as notificationView from "./view-notification.js";
import * as processView from "./view-processes.js";
import * as silenceView from "./view-silences.js";
import * as transitionView from "./view-transitions.js";

// Each has a `title`, and `open(main, route)`, which fills the view and returns `update(changed, route)`.
const VIEWS = {
  firing: firingView, alerts: alertView, channels: channelView, dead: deadView, transitions: transitionView,
  silences: silenceView, processes: processView, notifications: notificationView, explain: explainView,
};

let shown = "";                // the address of the view without its query
let update = () => {};
let moved = false;             // whether the user has changed the view

const sum = (list, field) => list.reduce((all, one) => all + one[field], 0);

function openView(route) {
  const view = VIEWS[route.view] ?? firingView;
  const name = JSON.stringify([route.view, route.path]);
  if (shown !== name) {
    shown = name;
    update = () => {};
    const main = $("view");
    main.replaceChildren();
    leave();
    update = view.open(main, route);
    $("search").parentElement.hidden = Boolean(view.unsearchable);
    if (moved) {
      scrollTo(0, 0);
      main.querySelector("h2")?.focus({ preventScroll: true });
    }
  }
  const search = $("search");
  if (document.activeElement !== search) search.value = route.query.q ?? "";
  document.title = `${alarms()}${view.title(route)} – Tocsin`;
}

const alarms = () => {
  const firing = sum(alerts(), "firing");
  return firing ? `(${counted(firing)}) ` : "";
};

function nav(route) {
  const dead = sum(channels(), "dead");
  const { q } = route.query;
  const items = [
    ["firing", "Firing", sum(alerts(), "firing")],
    ["alerts", "Alerts", alerts().length],
    ["channels", "Channels", channels().length],
    ["dead", "Dead letters", dead],
    ["silences", "Silences", (part("silences") ?? []).length],
    ["transitions", "Transitions", null],
    ...(instances().length > 1 ? [["processes", "Processes", instances().length]] : []),
  ];
  show($("nav"), { items, view: route.view, q, ready: known() }, () => items.map(([view, text, count]) =>
    make("a", { href: router.address(view, [], { q }), "data-key": `nav ${view}`, "aria-current": view === route.view ? "page" : null },
      text, " ", known() && count !== null ? make("span", { class: "count" }, counted(count)) : null)));
}

function verdict() {
  const firing = sum(alerts(), "firing");
  const blind = alerts().filter((alert) => alert.state !== "up").length;
  const [text, mood] =
    !known() ? ["Loading", ""]
    : firing ? [`${counted(firing)} firing`, "bad"]
    : !alerts().length ? ["No alerts configured", "warn"]
    : blind ? [`None known to fire, ${plural(blind, "alert")} without current rows`, "warn"]
    : ["Nothing fires", "good"];
  if ($("verdict").textContent !== text) $("verdict").textContent = text;
  $("verdict").className = mood;
}

function trouble() {
  const halted = channels().filter((channel) => channel.state !== "up" && channel.state !== "removed").length;
  const blind = sum(alerts(), "firing") ? alerts().filter((alert) => alert.state !== "up").length : 0;
  const dead = sum(channels(), "dead");
  const parts = [
    blind ? ["#/alerts", `${plural(blind, "alert")} without current rows`] : null,
    halted ? ["#/channels", `${plural(halted, "channel")} not delivering`] : null,
    dead ? ["#/dead", plural(dead, "dead letter")] : null,
  ].filter(Boolean);
  $("trouble").hidden = !parts.length;
  show($("trouble"), parts, () => parts.flatMap(([href, text], place) => [place ? ", " : "", link(href, text)]));
}

function unready() {
  const { ready, reasons, refused } = health();
  $("unready").hidden = ready && !refused.length;
  show($("unready"), [ready, reasons, refused], () => [
    ...(ready ? [] : reasoned("Not ready", reasons, "readyz")),
    ...(refused.length ? reasoned("A changed configuration is refused, and the one before it stays in effect. Correct the file and reload.", refused, "api/v1/status") : []),
  ]);
}

const reasoned = (what, why, rest) => [
  make("strong", {}, what),
  make("ul", {}, ...why.slice(0, 5).map((reason) => make("li", {}, plain(reason)))),
  why.length > 5 ? make("p", {}, `and ${why.length - 5} more: `, make("a", { href: rest }, "all of them")) : null,
];

function connection() {
  const at = live.at === null ? "" : new Date(live.at).toLocaleTimeString();
  $("lost").hidden = !live.problem;
  const text = live.problem && `Tocsin does not answer (${live.problem}). ${at ? `The page shows the state of ${at}, and` : "The page"} connects again by itself. If it does not: does the process run, and what does its log say?`;
  if ($("lost").textContent !== text) $("lost").textContent = text;
  document.body.classList.toggle("old", Boolean(live.problem));
  $("fresh").textContent = live.problem || !at ? "" : "live";
  $("fresh").title = at && `The last news came at ${at}.`;
  $("version").textContent = live.version ? `Tocsin ${live.version}` : "";
}

async function reload() {
  $("reloaded").textContent = "Reloading";
  try {
    const answer = await fetch("-/reload", { method: "POST" });
    $("reloaded").textContent = await answer.text();
  } catch {
    $("reloaded").textContent = "Tocsin does not answer.";
  }
}

function drawAll(changed) {
  const route = router.route();
  nav(route);
  verdict();
  trouble();
  unready();
  connection();
  $("reload").hidden = !live.admin;
  openView(route);
  if (known()) update(changed, route);
}

function search() {
  const field = $("search");
  field.addEventListener("input", () => router.set({ q: field.value.trim(), from: "" }));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    field.focus();
    field.select();
  });
}

router.begin(() => drawAll(new Set(["address"])));
addEventListener("hashchange", () => { moved = true; }, { capture: true });
search();
$("reload").addEventListener("click", reload);
drawAll(new Set());
follow(drawAll);
setInterval(tick, 1_000);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();      // the address is that of the view
  $("view").focus();
});
