// The processes that share the ledger.

import { counted, empty, list, make, plain, plural, show, since, tag } from "./elements.js";
import { instances } from "./live.js";
import { words } from "./words.js";

const LOOPBACK = /^(localhost|127\.[\d.]+|\[::1\])$/;

export const title = () => "Processes";

export function open(main) {
  const count = make("span", { class: "count" });
  const items = make("ul", { class: "list", id: "instances" });
  const holder = make("div", { class: "card" }, items);
  const nothing = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Processes ", count), holder, nothing));
  return (_, { query }) => {
    const all = instances();
    const has = words(query.q);
    const found = all.filter((one) => has(one.name, one.address, one.leads));
    const machine = all.find((one) => one.this)?.host;
    count.textContent = query.q ? `${counted(found.length)} of ${counted(all.length)}` : counted(all.length);
    holder.hidden = !found.length;
    show(nothing, [found.length, all.length], () => (found.length ? ""
      : empty(all.length ? "The search finds none." : "This process shares its ledger with no other.")));
    list(items, found, (one) => `${one.name} ${machine}`, (one) => item(one, machine));
  };
}

// The page of another process, or its address as text where the browser would reach another machine under it.
function address(one, machine) {
  const host = /^https?:/.test(one.address) && URL.canParse(one.address) ? new URL(one.address).hostname : "";
  const reached = host && (!LOOPBACK.test(host) || (LOOPBACK.test(location.hostname) && one.host === machine));
  return reached && !one.this ? make("a", { href: one.address, "data-key": `instance ${one.name}` }, plain(one.address)) : plain(one.address);
}

// `machine`: the host of the process that shows the page.
function item(one, machine) {
  return make("li", {},
    make("div", { class: "line" },
      make("span", { class: "name" }, plain(one.name)), one.this ? tag("this one") : null,
      make("span", { class: "push" }, one.leads.length ? `leads ${plural(one.leads.length, "alert")}` : make("span", { class: "none" }, "leads none"))),
    make("div", { class: "facts" }, make("span", {}, address(one, machine)), make("span", {}, "since ", since(one.since, " ago"))));
}
