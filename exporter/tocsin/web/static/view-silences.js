// The silences: those there are, and a form for a new one.

import { button, counted, empty, list, make, past, plain, plural, show, since, tag } from "./elements.js";
import { live, touched } from "./live.js";
import { fetchJson, fetcher, query as parameters } from "./requests.js";
import { address } from "./router.js";
import { words } from "./words.js";

const TAGS = { active: "warn", pending: "info", expired: "" };
const LENGTHS = { "30m": "30 minutes", "1h": "1 hour", "2h": "2 hours", "4h": "4 hours", "8h": "8 hours", "1d": "1 day", "7d": "1 week" };

export const title = () => "Silences";

export const silenceAddress = (matchers) => address("silences", [], { matchers });

const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);

export function open(main, route) {
  let known = [];
  let problem = "";
  let latest = {};
  let asking = false;          // whether the list was asked for
  const count = make("span", { class: "count" });
  const said = make("p", { class: "found", role: "status" });
  const asked = make("div", {});
  const items = make("ul", { class: "list", id: "silences" });
  const holder = make("div", { class: "card" }, items);
  const nothing = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Silences ", count),
    make("p", { class: "note" }, "A silence holds back the notifications that match. Gauges and this page go on. When it ends, what still matters is sent."),
    asked, said, holder, nothing));

  const fetch = fetcher((answer, error) => {
    problem = error ?? "";
    known = answer?.silences ?? known;
    drawAll();
  });

  async function end(id) {
    if (!confirm("End this silence now? What it holds is sent, unless it is over.")) return;
    try {
      await fetchJson(`api/v1/silences/${encodeURIComponent(id)}/end`, { method: "POST" });
      said.textContent = "The silence has ended.";
    } catch (error) {
      said.textContent = error.message;
    }
    fetch("api/v1/silences");
  }

  function drawAll() {
    const has = words(latest.q);
    const found = known.filter((one) => has(one.matchers, one.reason, one.by, one.state, one.id));
    count.textContent = latest.q ? `${counted(found.length)} of ${counted(known.length)}` : counted(known.filter((one) => one.state !== "expired").length);
    show(asked, live.admin, () => (live.admin ? form(route.query.matchers ?? "", (made) => {
      said.textContent = [`Silenced until ${new Date(made.ends_at).toLocaleString()}.`, ...warnings(made)].join(" ");
      fetch("api/v1/silences");
    }) : make("p", { class: "note" }, "To make or end one: ", make("code", {}, "tocsin silence"), ", or this page with the role admin.")));
    holder.hidden = !found.length;
    list(items, found.map((silence) => ({ silence, admin: live.admin })), (one) => one.silence.id, (one) => item(one, end));
    show(nothing, [problem, found.length, known.length], () =>
      problem ? empty(make("span", { class: "why bad" }, plain(problem)))
      : found.length ? "" : known.length ? empty("The search finds none.") : empty("None."));
  }

  return (changed, { query }) => {
    latest = query;
    if (touched(changed, "everything", "problem", "silences", "channel:") || !asking) fetch("api/v1/silences");
    asking = true;
    drawAll();
  };
}

function item({ silence, admin }, end) {
  const held = sum(silence.held);
  const inside = make("div", { class: "inside" });
  const over = silence.state === "expired";
  const opened = make("details", { ontoggle: () => { if (opened.open) fill(inside, silence.id); } },
    make("summary", { "data-key": `held ${silence.id}` }, `${plural(held, "notification")} held`), inside);
  return make("li", {},
    make("div", { class: "line" },
      tag(silence.state, TAGS[silence.state]), make("code", {}, plain(silence.matchers)),
      admin && !over ? make("span", { class: "push acts" }, button("End", `end ${silence.id}`, () => end(silence.id), `the silence ${silence.matchers}`)) : null),
    make("div", {}, plain(silence.reason), silence.by ? make("span", { class: "none" }, " – ", plain(silence.by)) : null),
    make("div", { class: "facts" },
      make("span", {}, silence.state === "pending" ? "begins " : "began ", past(silence.starts_at)),
      make("span", {}, over ? "ended " : "ends ", past(silence.ends_at)),
      over ? make("span", {}, `${counted(silence.released)} sent then, ${counted(silence.dropped)} dropped`) : null,
      make("a", { href: address("firing", [], { match: silence.matchers }), "data-key": `rows ${silence.id}` }, "rows that match")),
    held ? opened : null);
}

async function fill(element, id) {
  try {
    const { notifications } = await fetchJson(`api/v1/silences/${encodeURIComponent(id)}`);
    element.replaceChildren(make("ul", { class: "plain" }, ...notifications.map((one) => make("li", {},
      tag(one.kind), " ", plain(one.summary ?? one.alert), ` to ${one.channel}, `, since(one.created_at, " ago"), " ",
      make("a", { href: address("notifications", [one.id]) }, "its whole life")))));
  } catch (error) {
    element.replaceChildren(make("p", { class: "why bad" }, plain(error.message)));
  }
}

// The form. `made` is called with the silence.
function form(matchers, made) {
  const field = (name, label, attributes = {}) => {
    const input = make("input", { type: "text", id: `silence-${name}`, name, autocomplete: "off", ...attributes });
    return [input, make("label", { for: `silence-${name}` }, label)];
  };
  const [match, matchLabel] = field("matchers", "Matchers", { value: matchers, required: "", spellcheck: "false", placeholder: 'alertname="late_orders", region=~"eu.*"', "aria-describedby": "silence-preview" });
  const [reason, reasonLabel] = field("reason", "Reason", { required: "", maxlength: "1000" });
  const [by, byLabel] = field("by", "Who (optional)", { maxlength: "200", autocomplete: "username" });
  const length = make("select", { id: "silence-for", name: "for" }, ...Object.entries(LENGTHS).map(([value, text]) => make("option", { value, selected: value === "2h" ? "" : null }, text)));
  const preview = make("p", { id: "silence-preview", class: "none", role: "status" });
  const wrong = make("p", { class: "why bad", role: "alert" });
  const look = fetcher((answer, error) => preview.replaceChildren(error ? make("span", { class: "why bad" }, plain(error)) : matched(answer)));
  const changed = () => (match.value.trim() ? look(`api/v1/silences/preview${parameters({ matchers: match.value })}`) : preview.replaceChildren());
  match.addEventListener("input", changed);
  changed();

  async function submit(event) {
    event.preventDefault();
    wrong.textContent = "";
    const body = { matchers: match.value, reason: reason.value, for: length.value, ...(by.value.trim() ? { by: by.value } : {}) };
    try {
      made(await fetchJson("api/v1/silences", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
      match.value = reason.value = "";
      preview.replaceChildren();
    } catch (error) {
      wrong.textContent = error.message;
    }
  }

  const opened = make("details", { class: "card new", open: matchers ? "" : null }, make("summary", { "data-key": "new silence" }, "New silence"),
    make("form", { class: "silence", onsubmit: submit },
      matchLabel, make("div", {}, match, preview), make("label", { for: "silence-for" }, "For"), length, reasonLabel, reason, byLabel, by,
      make("span", {}), make("div", {}, make("button", { type: "submit" }, "Silence"), wrong)));
  return opened;
}

// What no alert has, in sentences.
const warnings = (answer) => (answer.warnings ?? []).map((text) => `Warning: ${text}${text.endsWith("?") ? "" : "."}`);

function matched(answer) {
  const rows = sum(answer.firing);
  const waiting = sum(answer.pending);
  const found = !rows && !waiting ? "Matches nothing now."
    : `Matches ${plural(rows, "row")} of ${plural(Object.keys(answer.firing).length, "alert")} now, and ${plural(waiting, "pending notification")}.`;
  const wrong = warnings(answer);
  return wrong.length ? make("span", { class: "why" }, plain([...wrong, found].join(" "))) : found;
}
