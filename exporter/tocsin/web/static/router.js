// The address: which view, of what, filtered how. `#/firing?q=acme&sort=-value`, `#/alerts/late_orders`.

const FORMER = { "firing-title": "firing", "dead-title": "dead", "alerts-title": "alerts", "channels-title": "channels",
  "instances-title": "processes", "recent-title": "transitions" };

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [view, ...rest] = path.split("/").map(decoded);
  return { view: FORMER[view] ?? (view || "firing"), path: rest.filter(Boolean), query: Object.fromEntries(new URLSearchParams(query)) };
}

export function address(view, path = [], query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return `#/${[view, ...path].map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

let changed = () => {};

// Change the query of the address, and draw. What is empty is removed.
export function set(query) {
  const { view, path, query: before } = route();
  history.replaceState(null, "", location.pathname + address(view, path, { ...before, ...query }));
  changed();
}

// Call `draw` when the address changes. Addresses of earlier versions lead to the same place.
export function begin(draw) {
  changed = draw;
  const filter = new URLSearchParams(location.search).get("filter");
  if (filter !== null) {
    const { view, path, query } = route();
    history.replaceState(null, "", location.pathname + address(view, path, { q: filter, ...query }));
  }
  addEventListener("hashchange", draw);
}
