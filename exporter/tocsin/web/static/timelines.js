// The timelines of the server, for the views that show them: fetched when one is opened, and at each new minute.

import { fetcher } from "./requests.js";
import { part, touched } from "./live.js";

export const HOURS = ["1", "6", "24"];
const USUAL = "6";

// Returns a function for `update`, which fetches when there is something new. `answered(timelines, error)`.
export function timelines(answered) {
  const fetch = fetcher(answered);
  let asked = "";
  return (changed, hours = USUAL) => {
    const want = HOURS.includes(hours) ? hours : USUAL;
    const now = `${want} ${part("timeline")}`;
    if (asked === now && !touched(changed, "everything", "problem", "alerts", "channels")) return;
    asked = now;
    fetch(`api/v1/timeline?hours=${want}`);
  };
}

export const chosen = (hours) => (HOURS.includes(hours) ? hours : USUAL);
