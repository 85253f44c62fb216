// The dead letters, with the request and the answer of each; to retry or drop them.

import { button, counted, empty, labels, list, make, past, plain, plural, show, summary, tag } from "./elements.js";
import { alerts, channels, live, touched } from "./live.js";
import { fetchJson, fetcher, query as parameters } from "./requests.js";
import { address, set } from "./router.js";
import { KINDS, answers, request } from "./life.js";
import { words } from "./words.js";

const PAGE = 50;

export const title = () => "Dead letters";

export function open(main) {
  let latest = {};
  let known = [];
  let more = null;             // where the list goes on
  let problem = "";
  let asked = "";
  const count = make("span", { class: "count" });
  const tools = make("div", { class: "tools" });
  const items = make("ul", { class: "list", id: "dead" });
  const rest = make("div", { class: "more" });
  const holder = make("div", { class: "card" }, items, rest);
  const said = make("p", { class: "found", role: "status" });
  const nothing = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Dead letters ", count), tools, said, holder, nothing));

  const path = (before) => `api/v1/dead-letters${parameters({ channel: latest.channel, alert: latest.alert, limit: PAGE, before })}`;
  const fetch = fetcher((answer, error) => {
    problem = error ?? "";
    if (answer) [known, more] = [answer.notifications, answer.before];
    drawAll();
  });

  const filtered = () => Boolean(latest.channel || latest.alert);
  const all = () => channels().filter((one) => !latest.channel || one.name === latest.channel).reduce((sum, one) => sum + one.dead, 0);

  async function act(action, ids, what) {
    if (action === "drop" && !confirm(`Drop ${what}? ${ids?.length === 1 ? "It" : "They"} will not be delivered.`)) return;
    if (action === "retry" && ids === null && !confirm(`Retry ${what}?`)) return;
    said.textContent = "";
    try {
      if (ids !== null) await fetchJson(`api/v1/notifications/${encodeURIComponent(ids[0])}/${action}`, { method: "POST" });
      known = known.filter((one) => !(ids ?? []).includes(one.id));
      drawAll();
      said.textContent = action === "drop" ? `Dropped ${what}.` : `${what} will be sent again.`;
      fetch(path());
    } catch (error) {
      said.textContent = error.message;
    }
  }

  function drawAll() {
    const has = words(latest.q);
    const found = known.filter((one) => has(one.alert, one.channel, one.kind, one.labels, one.summary, one.reason, one.detail, one.id));
    const total = latest.alert ? null : all();
    count.textContent = latest.q ? `${counted(found.length)} of ${counted(known.length)}` : total === null ? counted(known.length) + (more ? "+" : "") : counted(Math.max(total, known.length));
    show(tools, [channels().map((one) => [one.name, one.dead]), alerts().map((one) => one.name), latest.channel, latest.alert, live.admin, known.length], () => choices());
    holder.hidden = !found.length;
    list(items, found.map((record) => ({ record, admin: live.admin })), (one) => one.record.id, (one) => item(one, act));
    show(rest, [more], () => (more ? button("Show more", "more", showMore) : ""));
    rest.hidden = !more;
    show(nothing, [problem, found.length, known.length, filtered()], () =>
      problem ? empty(make("span", { class: "why bad" }, `The dead letters cannot be read: ${problem}`))
      : found.length ? ""
      : known.length || filtered() ? empty("None is found.")
      : empty("None. Notifications that cannot be delivered are kept here with the reason."));
  }

  function choices() {
    const choice = (label, name, options, value) => make("label", {}, `${label} `,
      make("select", { "data-key": name, onchange: (event) => set({ [name]: event.target.value }) },
        ...options.map(([one, text]) => make("option", { value: one, selected: one === value ? "" : null }, text))));
    const dead = channels().filter((one) => one.dead || one.name === latest.channel);
    return [
      choice("Channel", "channel", [["", "all"], ...dead.map((one) => [one.name, `${one.name} (${counted(one.dead)})`])], latest.channel ?? ""),
      choice("Alert", "alert", [["", "all"], ...alerts().map((one) => [one.name, one.name])], latest.alert ?? ""),
    ];
  }

  async function showMore() {
    try {
      const answer = await fetchJson(path(more));
      known = [...known, ...answer.notifications];
      more = answer.before;
    } catch (error) {
      problem = error.message;
    }
    drawAll();
  }

  return (changed, { query }) => {
    const before = JSON.stringify([latest.channel, latest.alert]);
    latest = query;
    const now = JSON.stringify(channels().map((one) => [one.name, one.dead]));
    if (now !== asked || before !== JSON.stringify([query.channel, query.alert]) || touched(changed, "everything", "problem")) fetch(path());
    asked = now;
    drawAll();
  };
}

function item({ record, admin }, act) {
  const details = make("div", { class: "inside" });
  const opened = make("details", { ontoggle: () => { if (opened.open) fill(details, record.id); } },
    make("summary", { "data-key": `request ${record.id}` }, "Request and answer"), details);
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(record.alert)), tag(record.kind, KINDS[record.kind]),
      make("span", {}, "to ", plain(record.channel)),
      admin ? make("span", { class: "push acts" },
        button("Retry", `retry ${record.id}`, () => act("retry", [record.id], "the notification")),
        button("Drop", `drop ${record.id}`, () => act("drop", [record.id], "the notification"))) : null),
    summary(record),
    labels(record.labels, record.value),
    make("div", { class: "why bad" }, `${record.reason}: `, plain(record.detail || "no details")),
    make("div", { class: "facts" },
      make("span", {}, past(record.settled_at ?? record.at)), make("span", {}, plural(record.attempts, "attempt")),
      make("a", { href: address("notifications", [record.id]), "data-key": `life ${record.id}` }, "its whole life")),
    opened);
}

async function fill(element, id) {
  if (element.childElementCount) return;
  element.replaceChildren(make("p", { class: "none" }, "Loading"));
  try {
    const found = await fetchJson(`api/v1/notifications/${encodeURIComponent(id)}`);
    element.replaceChildren(...request(found), ...answers(found));
  } catch (error) {
    element.replaceChildren(make("p", { class: "why bad" }, plain(error.message)));
  }
}
