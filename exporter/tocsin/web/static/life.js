// The parts of a notification's life: the request, the answers, what comes next. For its own page, dead letters, and rows.

import { block, counted, make, moment, past, plain, tag } from "./elements.js";
import { address } from "./router.js";

export const STATUS_TAGS = { delivered: "good", pending: "warn", dead: "bad", dropped: "", failed: "bad" };
export const KINDS = { fired: "bad", updated: "warn", resolved: "good", repeated: "", event: "info" };
const SHORT = 200;

function pretty(value) {
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}

function field(value) {
  if (value === null) return make("span", { class: "none" }, "none");
  const text = String(value);
  const simple = typeof value !== "object" && !text.includes("\n") && text.length < SHORT && !/^\s*[[{]/.test(text);
  return simple ? plain(text) : block(pretty(value));
}

// Names with their values.
export const fields = (pairs) => make("dl", { class: "fields" },
  ...Object.entries(pairs).flatMap(([name, value]) => [make("dt", {}, plain(name)), make("dd", {}, field(value))]));

// The request as the channel would send it now, with secrets hidden.
export function request({ request: shown, request_error: error }) {
  if (error) return [make("h3", {}, "Request"), make("p", { class: "why bad" }, plain(error))];
  return shown ? [make("h3", {}, "Request"), fields(shown)] : [];
}

function answer({ at, outcome, reason, answer: text }) {
  return make("li", {}, at ? moment(at) : null, " ", tag(outcome, STATUS_TAGS[outcome]), " ",
    reason ? make("span", { class: "why bad" }, `${reason}: `, plain(text || "no details")) : plain(text ?? ""));
}

export function answers({ answers: found = [], attempts }) {
  return [make("h3", {}, "Attempts and answers"),
    found.length ? make("ol", { class: "steps" }, ...found.map(answer))
      : make("p", { class: "none" }, attempts ? "The attempts are no longer kept." : "No attempt was made.")];
}

// What happens next. `steps`: one, several, or none.
export function next(steps) {
  const found = [steps].flat().filter(Boolean);
  if (!found.length) return [];
  return [make("h3", {}, "What happens next"), make("ul", { class: "steps" },
    ...found.map(({ at, text }) => make("li", {}, at ? past(at) : null, at ? ": " : null, plain(text))))];
}

export const sentences = (texts) => (texts ?? []).map((one) => make("p", {}, plain(one)));

// What a channel gets of a row, with its conditions and their values.
export function route(one) {
  const { when } = one;
  const values = when && Object.entries(when.values).map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join(", ");
  return [
    make("div", { class: "line" },
      make("a", { class: "name", href: address("channels", [], { q: one.channel }), "data-key": `channel ${one.channel}` }, plain(one.channel)),
      one.type && one.type !== one.channel ? make("span", { class: "none" }, plain(one.type)) : null,
      one.state ? tag(one.state, one.state === "up" ? "good" : "bad") : null),
    one.message ? make("p", { class: "why bad" }, plain(one.message)) : null,
    when ? make("p", {}, "when ", make("code", {}, plain(when.expression)), " is ", make("b", {}, when.result === null ? "not known" : String(when.result)),
      values ? make("span", { class: "none" }, ` (${values})`) : null) : null,
    when?.error ? make("p", { class: "why bad" }, plain(when.error)) : null,
    ...sentences(one.says),
    make("div", { class: "facts" },
      ...Object.entries({ ...one.group, ...one.order }).map(([name, value]) => make("span", {}, `${name} `, plain(value ?? "null"))),
      one.waiting ? make("span", {}, `${counted(one.waiting)} pending`) : null,
      one.window_ends ? make("span", {}, "next message ", past(one.window_ends)) : null),
  ];
}
