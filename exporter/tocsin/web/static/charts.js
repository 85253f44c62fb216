// Charts of the last hours, as SVG. Each is an image with a text that says the same in words.

import { counted, draw, make, number, span } from "./elements.js";

const MARKS = ["unknown", "nothing fires", "pending", "source down or silent", "firing"];
export const CHANNEL_MARKS = ["unknown", "delivers", "pending", "failing", "paused or refusing"];
const HEIGHT = 24;

const time = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

// Runs of the same mark: [mark, first point, points].
function runs(marks) {
  const found = [];
  for (const [place, mark] of [...marks].entries()) {
    if (found.length && found.at(-1)[0] === mark) found.at(-1)[2] += 1;
    else found.push([mark, place, 1]);
  }
  return found;
}

const share = (marks, mark) => [...marks].filter((one) => one === mark).length / marks.length;

// `now`: the mark of this moment; that of the last minute may be of something that is over.
function inWords(marks, words, hours, now) {
  const parts = ["4", "3", "2"].filter((mark) => marks.includes(mark))
    .map((mark) => `${words[mark]} ${Math.max(1, Math.round(share(marks, mark) * 100))} % of the time`);
  return `Last ${hours} h: ${parts.join(", ") || words[1]}; now ${words[now]}`;
}

// The state over time, as a bar. `now`: the mark of this moment. `words`: of the marks.
export function states(track, { from, step, began }, now, words = MARKS) {
  const { marks } = track;
  const hours = Math.round((marks.length * step) / 3600);
  const start = (began - from) / step;
  return draw("svg", { class: "states", viewBox: `0 0 ${marks.length} 1`, preserveAspectRatio: "none", role: "img", "aria-label": inWords(marks, words, hours, now) },
    ...runs(marks).map(([mark, place, points]) => draw("rect", { class: `mark m${mark}`, x: place, y: 0, width: points, height: 1 },
      draw("title", {}, `${words[mark]}, ${time(from + place * step)} to ${time(from + (place + points) * step)}`))),
    start > 0 ? draw("rect", { class: "began", x: Math.min(start, marks.length - 0.5), y: 0, width: marks.length / 400, height: 1 },
      draw("title", {}, `start of Tocsin, ${time(began)}`)) : null);
}

// The time below the bars.
export function axis({ from, step }, points) {
  const at = [0, 0.25, 0.5, 0.75].map((part) => time(from + Math.round(part * points) * step));
  return make("div", { class: "axis", "aria-hidden": "true" }, ...at.map((text) => make("span", {}, text)), make("span", {}, "now"));
}

const shown = { count: counted, seconds: span };

// One series as a line. `unit`: `count`, of which `now` is the value at this moment, or `seconds`, of which there may be
// none at a time.
export function spark(title, values, points, now, unit = "count") {
  const known = (values ?? []).filter((value) => value !== null);
  const most = Math.max(0, ...known);
  const last = now ?? known.at(-1) ?? null;
  const text = last === null ? "–" : shown[unit](last);
  const peak = most > 0 ? shown[unit](most) : "";
  const words = last === null ? `${title}: none` : `${title}: ${unit === "count" ? "now" : "last"} ${text}${peak ? `, at most ${peak}` : ""}`;
  return make("div", { class: "spark" },
    make("div", { class: "about" }, make("span", {}, title), " ", make("b", {}, text), peak && peak !== text ? make("span", {}, ` max ${peak}`) : null),
    draw("svg", { viewBox: `0 0 ${points} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": words },
      draw("path", { class: "base", d: `M0 ${HEIGHT - 0.5}H${points}` }),
      most > 0 ? draw("path", { class: "area", d: path(values, most, points, true) }) : null,
      most > 0 ? draw("path", { class: "curve", d: path(values, most, points, false) }) : null));
}

// Steps, and a gap where nothing is known. `filled`: down to the ground.
function path(values, most, points, filled) {
  let text = "";
  let open = false;
  const ground = HEIGHT - 1;
  for (let place = 0; place < points; place += 1) {
    const value = values[place];
    if (value === null || value === undefined) {
      if (open && filled) text += `V${ground}Z`;
      open = false;
      continue;
    }
    const height = number(Math.round((ground - (value / most) * (ground - 2)) * 10) / 10);
    if (open) text += `V${height}H${place + 1}`;
    else text += filled ? `M${place} ${ground}V${height}H${place + 1}` : `M${place} ${height}H${place + 1}`;
    open = true;
  }
  return open && filled ? `${text}V${ground}Z` : text;
}

export function legend(words = MARKS) {
  return make("ul", { class: "legend" }, ...[4, 2, 3, 1, 0].map((mark) =>
    make("li", {}, draw("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, draw("rect", { class: `mark m${mark}`, width: 10, height: 10 })), words[mark])));
}
