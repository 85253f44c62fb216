// The dead letters, with the request and the answer of each; to retry or drop them.

import { button, choice, counted, empty, labels, list, make, past, plain, plural, show, summary, tag } from "./elements.js";
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

  const filter = () => ({ channel: latest.channel, alert: latest.alert, reason: latest.reason });
  const path = (before) => `api/v1/dead-letters${parameters({ ...filter(), limit: PAGE, before })}`;
  const fetch = fetcher((answer, error) => {
    problem = error ?? "";
    if (answer) [known, more] = [answer.notifications, answer.before];
    drawAll();
  });

  const filtered = () => Boolean(latest.channel || latest.alert || latest.reason);
  const searched = () => {
    const has = words(latest.q);
    return known.filter((one) => has(one.alert, one.channel, one.kind, one.labels, one.summary, one.reason, one.detail, one.id));
  };
  const all = () => channels().filter((one) => !latest.channel || one.name === latest.channel).reduce((sum, one) => sum + one.dead, 0);

  async function act(action, ids, what) {
    if (action === "drop" && !confirm(`Drop ${what}? What is dropped is not delivered.`)) return;
    if (action === "retry" && ids === null && !confirm(`Send ${what} again?`)) return;
    said.textContent = "";
    try {
      for (const id of ids ?? []) await fetchJson(`api/v1/notifications/${encodeURIComponent(id)}/${action}`, { method: "POST" });
      if (ids === null) await fetchJson(`api/v1/dead-letters/${action}${parameters(filter())}`, { method: "POST" });
      said.textContent = action === "drop" ? `Dropped: ${what}.` : `Sent again: ${what}.`;
      known = known.filter((one) => ids !== null && !ids.includes(one.id));
    } catch (error) {
      said.textContent = error.message;
    }
    drawAll();
    fetch(path());
  }

  // All that are found: by the search those that are shown, else all that the filter has, shown or not.
  function actAll(action) {
    const found = searched().map((one) => one.id);
    const named = [latest.reason ? `for ${latest.reason}` : "", latest.channel ? `to ${latest.channel}` : "", latest.alert ? `of ${latest.alert}` : ""].filter(Boolean);
    return latest.q ? act(action, found, `the ${plural(found.length, "dead letter")} found`) : act(action, null, ["all dead letters", ...named].join(" "));
  }

  function drawAll() {
    const found = searched();
    const total = latest.alert || latest.reason ? null : all();
    count.textContent = latest.q ? `${counted(found.length)} of ${counted(known.length)}` : total === null ? counted(known.length) + (more ? "+" : "") : counted(Math.max(total, known.length));
    show(tools, [channels().map((one) => [one.name, one.dead]), alerts().map((one) => one.name), filter(), latest.q, live.admin, reasons()], () => choices(found.length));
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

  const reasons = () => [...new Set([...known.map((one) => one.reason), latest.reason ?? ""])].filter(Boolean).sort();

  function choices(found) {
    const filterBy = (label, name, options) => choice(label, name, options, latest[name] ?? "", (value) => set({ [name]: value }));
    const dead = channels().filter((one) => one.dead || one.name === latest.channel);
    return [
      filterBy("Channel", "channel", [["", "all"], ...dead.map((one) => [one.name, `${one.name} (${counted(one.dead)})`])]),
      filterBy("Alert", "alert", [["", "all"], ...alerts().map((one) => [one.name, one.name])]),
      filterBy("Reason", "reason", [["", "all"], ...reasons().map((one) => [one, one])]),
      live.admin && found ? make("span", { class: "acts push" }, button("Retry all", "retry all", () => actAll("retry")), button("Drop all", "drop all", () => actAll("drop"))) : "",
      !live.admin && found ? make("span", {}, "To retry or drop them: ", make("code", {}, "tocsin outbox"), ", or this page with the role admin.") : "",
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
    const before = JSON.stringify(filter());
    latest = query;
    const now = JSON.stringify(channels().map((one) => [one.name, one.dead]));
    if (now !== asked || before !== JSON.stringify(filter()) || touched(changed, "everything", "problem")) fetch(path());
    asked = now;
    drawAll();
  };
}

const about = (record) => `${record.summary ?? record.alert}, to ${record.channel}`;

function item({ record, admin }, act) {
  const details = make("div", { class: "inside" });
  const opened = make("details", { ontoggle: () => { if (opened.open) fill(details, record.id); } },
    make("summary", { "data-key": `request ${record.id}` }, "Request and answer"), details);
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(record.alert)), tag(record.kind, KINDS[record.kind]),
      make("span", {}, "to ", plain(record.channel)),
      admin ? make("span", { class: "push acts" },
        button("Retry", `retry ${record.id}`, () => act("retry", [record.id], "the notification"), about(record)),
        button("Drop", `drop ${record.id}`, () => act("drop", [record.id], "the notification"), about(record))) : null),
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
