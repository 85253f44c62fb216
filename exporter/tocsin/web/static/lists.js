// Which items of the lists are shown: those that the filter finds, those in trouble first, and of long lists the first.

import { $, button, counted, make } from "./elements.js";

const FEW = { dead: 5, groups: 8 };    // items until a list is unfolded, by its name; 10 of others
const MANY_GROUPS = 4;                 // of more alerts that fire, fewer rows each
const unfolded = new Set();            // names of the lists that show all they have

let words = [];
let changed = () => {};

// Read the filter of the address, and call `draw` when the filter changes, or a list is unfolded.
export function begin(draw) {
  changed = draw;
  const field = $("filter");
  const read = () => { words = field.value.toLowerCase().split(/\s+/).filter(Boolean); };
  field.value = new URLSearchParams(location.search).get("filter") ?? field.value;
  read();
  field.addEventListener("input", () => {
    read();
    const query = field.value.trim() ? `?${new URLSearchParams({ filter: field.value.trim() })}` : "";
    history.replaceState(null, "", location.pathname + query + location.hash);
    draw();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    field.focus();
  });
}

export const filtering = () => words.length > 0;

// Whether each word of the filter is somewhere in these texts, or in texts inside of them.
export function found(...texts) {
  const all = words.length ? JSON.stringify(texts).toLowerCase() : "";
  return words.every((word) => all.includes(JSON.stringify(word).slice(1, -1)));
}

const ALERT_ORDER = { error: 0, stale: 0, refusing: 0, starting: 1 };

function alertRank(alert) {
  if (alert.state in ALERT_ORDER) return ALERT_ORDER[alert.state];
  return alert.message || alert.dropped ? 2 : alert.firing ? 3 : 4;
}

const channelRank = (channel) =>
  channel.state === "removed" ? 2 : channel.state !== "up" ? 0 : channel.dead ? 1 : 3;

const ranked = (list, rank) =>
  list.map((one, place) => [rank(one), place, one]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((one) => one[2]);

// Those in trouble first, else in the order of the configuration.
export const orderedAlerts = (list) => ranked(list, alertRank);
export const orderedChannels = (list) => ranked(list, channelRank);

export const foundAlerts = (list) => list.filter((one) => found(one.name, one.source, one.state, one.message, one.leader?.name));
export const foundChannels = (list) => list.filter((one) => found(one.name, one.type, one.state, one.message));
export const foundInstances = (list) => list.filter((one) => found(one.name, one.address, one.leads));
export const foundRecords = (list) => list.filter((one) =>
  found(one.alert, one.channel, one.kind, one.labels, one.summary, one.reason, one.detail, one.id));

// The alerts with rows, and of each the rows, that the filter finds. An alert found by itself has all its rows.
export function foundGroups(groups) {
  return groups
    .map((group) => {
      const { name, source, state } = group.alert;
      const rows = found(name, source, state) ? group.rows
        : group.rows.filter((row) => found(name, source, state, row.labels, row.summary));
      return { ...group, rows, known: group.rows.length };
    })
    .filter((group) => group.rows.length);
}

// How many of a list are shown. A single one more is not worth a button.
export const few = (name, list, count = FEW[name] ?? 10) =>
  unfolded.has(name) || list.length <= count + 1 ? list.length : count;

export const fewRows = (group, groups) =>
  few(`alert ${group.alert.name}`, group.rows, groups.length > MANY_GROUPS ? 3 : 10);

// The line below a list of which more is known, or exists, than is shown. `all`: where everything is.
export function more(name, count, known, total, all) {
  const folds = unfolded.has(name) && known > 5;
  if (count >= total && !folds) return null;
  const toggle = () => {
    if (!unfolded.delete(name)) unfolded.add(name);
    changed();
  };
  return make("div", { class: "more" }, `${counted(count)} of ${counted(total)} `,
    count < known ? button(`Show ${counted(known)}`, `fold ${name}`, toggle) : null,
    folds ? button("Show fewer", `fold ${name}`, toggle) : null, " ",
    total > known && all ? make("a", { href: all }, "More as JSON") : null);
}
