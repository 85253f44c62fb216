// The latest transitions, as they come.

import { clock, counted, empty, labels, list, make, plain, show, summary, tag } from "./elements.js";
import { KINDS } from "./life.js";
import { live } from "./live.js";
import { address } from "./router.js";
import { words } from "./words.js";

export const title = () => "Transitions";

export function open(main) {
  const count = make("span", { class: "count" });
  const items = make("ul", { class: "list" });
  const holder = make("div", { class: "card" }, items);
  const nothing = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Latest transitions ", count), holder, nothing));
  return (_, { query }) => {
    const has = words(query.q);
    const found = live.transitions.filter((one) => has(one.alert, one.kind, one.labels, one.summary, one.row));
    count.textContent = query.q ? `${counted(found.length)} of ${counted(live.transitions.length)}` : counted(found.length);
    holder.hidden = !found.length;
    show(nothing, [found.length, live.transitions.length], () => (found.length ? ""
      : live.transitions.length ? empty("The search finds none.") : empty("None since the start. They show here as they happen.")));
    list(items, found, (one) => `${one.alert} ${one.fingerprint} ${one.at} ${one.kind}`, item);
  };
}

function item(one) {
  return make("li", {}, make("div", { class: "line" },
    tag(one.kind, KINDS[one.kind]),
    make("a", { class: "name", href: address("alerts", [one.alert]) }, plain(one.alert)),
    make("div", { class: "what" }, summary(one), labels(one.labels, one.value)),
    make("span", { class: "push none" }, clock(one.at))));
}
