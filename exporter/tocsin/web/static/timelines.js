// The timelines of the server, for the views that show them: fetched when one is opened, and at each new minute.

import { make } from "./elements.js";
import { part, touched } from "./live.js";
import { fetcher } from "./requests.js";
import { set } from "./router.js";

const HOURS = ["1", "6", "24"];
const USUAL = "6";

// Returns a function for `update`, which fetches when there is something new. `answered(timelines, error)`.
export function timelines(answered) {
  const fetch = fetcher(answered);
  let asked = "";
  return (changed, hours) => {
    const want = chosen(hours);
    const now = `${want} ${part("timeline")}`;
    if (asked === now && !touched(changed, "everything", "problem", "alerts", "channels")) return;
    asked = now;
    fetch(`api/v1/timeline?hours=${want}`);
  };
}

export const chosen = (hours) => (HOURS.includes(hours) ? hours : USUAL);

export function range(hours) {
  return make("div", { class: "range", role: "group", "aria-label": "Hours that are shown" }, ...HOURS.map((one) =>
    make("button", { type: "button", "aria-pressed": String(one === chosen(hours)), "data-key": `hours ${one}`, onclick: () => set({ hours: one }) }, `${one} h`)));
}

// What is drawn of one alert or channel, so that nothing is drawn again because others changed. `kind`: which of the two.
export const trackOf = (answer, kind, name) => answer && { from: answer.from, step: answer.step, began: answer.began, [kind]: { [name]: answer[kind][name] } };
