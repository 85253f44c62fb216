// The rows that fire now. The server searches, filters and sorts; a page of them is here.

import { choice, counted, empty, labels, list, make, number, plain, plural, show, since, tag } from "./elements.js";
import { alert, alerts, live, touched } from "./live.js";
import { fetcher, query as parameters } from "./requests.js";
import { address, set } from "./router.js";
import { silenceAddress } from "./view-silences.js";

const PAGE = 50;
const PHASES = { pending: "pending", keeping: "gone, kept firing" };
const SORTS = { "-started": "newest first", started: "oldest first", "-value": "highest value first", value: "lowest value first",
  "-severity": "gravest first", alert: "by alert" };
const RANKS = [["critical", "crit", "page", "emergency", "fatal", "p1", "error", "err", "high", "major", "p2"],
  ["warning", "warn", "medium", "minor", "p3"], ["info", "information", "notice", "low", "p4"]];
const MOODS = ["bad", "warn", "info"];

export const title = () => "Firing now";

export const mood = (severity) => MOODS[RANKS.findIndex((names) => names.includes(severity.toLowerCase()))] ?? "";

const quoted = (text) => `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;

// Add a matcher of a label to those there are.
const narrowed = (match, name, value) => [match, `${name}=${quoted(value)}`].filter(Boolean).join(", ");

export function open(main, route) {
  let latest = route.query;
  const count = make("span", { class: "count" });
  const filters = make("div", { class: "filters" });
  const silence = make("span", {});
  const match = make("input", { type: "text", id: "match", placeholder: 'region="eu", customer=~"A.*"', autocomplete: "off", spellcheck: "false",
    onchange: () => set({ match: match.value.trim(), from: "" }) });
  const problem = make("p", { class: "why bad", role: "alert" });
  const found = make("p", { class: "unseen", role: "status" });
  const body = make("tbody", {});
  const table = make("table", { class: "rows" },
    make("thead", {}, make("tr", {}, ...[["row", "", ""], ["value", "value", "number"], ["since", "started", "since"]].map(heading))), body);
  const holder = make("div", { class: "card" }, table);
  const nothing = make("div", {});
  const pages = [make("nav", { class: "pages", "aria-label": "Pages of rows" }), make("nav", { class: "pages", "aria-label": "Pages of rows, below them" })];
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Firing now ", count),
    make("div", { class: "tools" }, filters, make("label", { class: "wide" }, "Labels ", match), silence),
    problem, found, pages[0], holder, nothing, pages[1]));

  function heading([name, sort, kind]) {
    if (!sort) return make("th", { scope: "col" }, name);
    return make("th", { scope: "col", class: kind, "data-sort": sort },
      make("button", { type: "button", class: "sort", onclick: () => set({ sort: latest.sort === `-${sort}` || (sort === "started" && !latest.sort) ? sort : `-${sort}`, from: "" }) }, name));
  }

  const fetchRows = fetcher((answer, error) => {
    problem.textContent = error ?? "";
    problem.hidden = !error;
    if (answer) draw(answer);
  });

  function draw(answer) {
    const from = Number(latest.from ?? 0);
    const filtered = Boolean(latest.q || latest.alert || latest.severity !== undefined || latest.match);
    count.textContent = filtered ? `${counted(answer.found)} of ${counted(answer.known)}` : counted(answer.known);
    show(filters, [answer.alerts, answer.severities, latest.alert, latest.severity, latest.sort], () => choices(answer));
    found.textContent = filtered ? `${plural(answer.found, "row")} found` : "";
    show(silence, [live.admin, latest.match, latest.alert, latest.severity, latest.q], () => silenceLink());
    for (const one of table.querySelectorAll("th[data-sort]")) {
      const sort = latest.sort ?? "-started";
      if (sort.replace("-", "") !== one.dataset.sort) one.removeAttribute("aria-sort");
      else one.setAttribute("aria-sort", sort.startsWith("-") ? "descending" : "ascending");
    }
    const rows = answer.rows.map((row) => ({ ...row, current: alert(row.alert)?.state === "up" }));
    holder.hidden = !rows.length;
    show(nothing, [rows.length, filtered, alerts().map((one) => one.state)], () => (rows.length ? "" : none(filtered)));
    list(body, rows, (row) => `${row.alert} ${row.fingerprint}`, line);
    for (const one of pages) show(one, [from, answer.found], () => pager(from, answer.found));
  }

  function choices(answer) {
    const filterBy = (label, name, options, usual = "") =>
      choice(label, name, options, latest[name] ?? usual, (value) => set({ [name]: value, from: "" }));
    const names = Object.entries(answer.alerts).map(([name, rows]) => [name, `${name} (${counted(rows)})`]);
    if (latest.alert && !(latest.alert in answer.alerts)) names.push([latest.alert, `${latest.alert} (0)`]);
    const severities = Object.entries(answer.severities).filter(([name]) => name).map(([name, rows]) => [name, `${name} (${counted(rows)})`]);
    if (latest.severity && !(latest.severity in answer.severities)) severities.push([latest.severity, `${latest.severity} (0)`]);
    const labelSorts = latest.alert ? Object.keys(answer.rows[0]?.labels ?? {}).map((name) => [`label:${name}`, `by ${name}`]) : [];
    return [
      filterBy("Alert", "alert", [["", "all"], ...names]),
      severities.length ? filterBy("Severity", "severity", [["", "all"], ...severities]) : "",
      filterBy("Order", "sort", [...Object.entries(SORTS), ...labelSorts], "-started"),
    ];
  }

  // Silences have no search: what they match has to be said by labels.
  function silenceLink() {
    const { alert: name, severity, match: matchers, q } = latest;
    if (!live.admin || q || !(name || severity || matchers)) return "";
    const all = [name ? `alertname=${quoted(name)}` : "", severity ? `severity=${quoted(severity)}` : "", matchers].filter(Boolean);
    return make("a", { href: silenceAddress(all.join(", ")), "data-key": "silence" }, "Silence these");
  }

  function line(row) {
    const severity = row.labels.severity ?? "";
    const pairs = Object.fromEntries(Object.entries(row.labels).filter(([name]) => name !== "severity"));
    const why = address("explain", [row.alert, row.fingerprint]);
    const pick = (name, value) => set({ match: narrowed(latest.match, name, value), from: "" });
    return make("tr", { class: `${mood(severity)} ${row.phase === "firing" ? "" : "quiet"}` },
      make("th", { scope: "row", "data-name": "row" },
        make("div", {},
          make("a", { class: "summary", href: why, "data-key": `why ${row.fingerprint}` }, row.summary ? plain(row.summary) : plain(row.alert)),
          make("div", { class: "about" },
            row.summary ? make("span", { class: "name" }, plain(row.alert)) : null,
            severity ? tag(severity, mood(severity)) : null,
            PHASES[row.phase] ? tag(PHASES[row.phase], "warn") : null,
            row.current ? null : tag("not current", "bad"),
            row.silence ? make("a", { href: address("silences", [], { q: row.silence }), class: "tag", "data-key": `silenced ${row.fingerprint}` }, "silenced") : null,
            labels(pairs, null, pick)))),
      make("td", { class: "number", "data-name": "value" }, row.value === null ? make("span", { class: "none" }, "–") : make("span", {}, number(row.value))),
      make("td", { class: "since", "data-name": "since" }, since(row.started_at)));
  }

  return (changed, { query }) => {
    const moved = changed.has("address") || changed.has("everything") || query !== latest;
    latest = query;
    if (document.activeElement !== match) match.value = query.match ?? "";
    if (!moved && !touched(changed, "rows:", "alerts", "problem")) return;
    const { q, match: matched, alert: name, severity, sort, from } = query;
    fetchRows(`api/v1/rows${parameters({ q, match: matched, alert: name, severity, sort, offset: from, limit: PAGE })}`);
  };
}

function pager(from, total) {
  if (total <= PAGE) return "";
  const to = (at, text, there) => there
    ? make("button", { type: "button", "data-key": text, onclick: () => { set({ from: at || "" }); scrollTo(0, 0); } }, text)
    : make("button", { type: "button", disabled: "" }, text);
  return [to(from - PAGE, "Previous", from > 0),
    make("span", {}, `${counted(from + 1)} to ${counted(Math.min(from + PAGE, total))} of ${counted(total)}`),
    to(from + PAGE, "Next", from + PAGE < total)];
}

function none(filtered) {
  const blind = alerts().filter((one) => one.state !== "up").length;
  if (filtered) return empty("No row that fires is found. ", make("button", { type: "button", class: "link", onclick: () => set({ q: "", match: "", alert: "", severity: "", from: "" }) }, "Show all"));
  if (!alerts().length) return empty("No alerts are configured. ", make("code", {}, "tocsin init"), " writes a configuration for a view of your server; or add an alert under ", make("code", {}, "alerts:"), " and reload.");
  if (blind) return empty(`No known row fires, but ${blind} of ${plural(alerts().length, "alert")} without current rows. `, make("a", { href: "#/alerts" }, "See why"), ".");
  return empty("Nothing fires. Rows show here as soon as they are in one of the views.");
}
