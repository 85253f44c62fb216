// The channels: state in words, what is pending, the last errors.

import { CHANNEL_MARKS, axis, legend, spark, states } from "./charts.js";
import { counted, empty, later, list, make, past, plain, plural, show, since, tag } from "./elements.js";
import { channels, touched } from "./live.js";
import { address } from "./router.js";
import { chosen, range, timelines, trackOf } from "./timelines.js";
import { words } from "./words.js";

const TAGS = { up: "good", paused: "bad", refusing: "bad", failing: "warn", removed: "warn" };
const NOW = { up: 1, failing: 3, removed: 0 };
const WORDS = {
  up: "Delivers.",
  failing: "Attempts fail. Each is repeated with growing pauses, until the receiver accepts it or max_age has passed. Check the receiver.",
  refusing: "One notification after another is refused, and becomes a dead letter. Correct what the last error names, then retry the dead letters.",
  paused: "The receiver refuses the credentials or the plan. Everything waits, and one attempt is made now and then. Set the right ones and reload; nothing has to be sent again.",
  removed: "Add it to the configuration again to retry its dead letters, or drop them.",
};

export const title = () => "Channels";

const rank = (channel) => channel.state === "removed" ? 2 : channel.state !== "up" ? 0 : channel.dead ? 1 : 3;
const ordered = (all) => [...all].sort((a, b) => rank(a) - rank(b));

const idle = (channel) => channel.state === "up" && !channel.delivered && !channel.failed;

function failure(one) {
  return make("li", {},
    make("span", {}, past(one.at)), " ", tag(one.reason, "bad"), " ",
    plain(one.detail || "no details"), one.count > 1 ? make("span", { class: "none" }, ` ${counted(one.count)} times `) : " ",
    ...(one.id ? [" ", make("a", { href: address("notifications", [one.id]), "data-key": `failed ${one.id}` }, "the latest")] : []));
}

function facts(channel) {
  if (channel.state === "removed") return [];
  const found = [make("span", {}, `${counted(channel.delivered)} delivered`)];
  if (channel.failed) found.push(make("span", {}, plural(channel.failed, "failed attempt")));
  if (channel.last_delivery) found.push(make("span", {}, "last delivery ", since(channel.last_delivery, " ago")));
  return found;
}

function item({ channel, timeline }) {
  const track = timeline?.channels[channel.name];
  const points = track?.marks.length ?? 0;
  const waiting = channel.pending
    ? make("span", {}, `${counted(channel.pending)} pending, ${later(channel.oldest_pending) ? "due" : "oldest"} `, since(channel.oldest_pending))
    : make("span", { class: "none" }, "none pending");
  const held = channel.silenced ? make("a", { href: "#/silences", "data-key": `silenced ${channel.name}` }, `${counted(channel.silenced)} silenced`) : null;
  return make("li", { class: "tracked" },
    make("div", {},
      make("div", { class: "line" },
        make("span", { class: "name" }, plain(channel.name)),
        !channel.type || channel.type === channel.name ? null : make("span", { class: "none" }, plain(channel.type)),
        tag(channel.state, TAGS[channel.state]), make("span", { class: "push" }, waiting)),
      make("div", { class: "state" }, idle(channel) ? "This process has sent nothing since its start." : WORDS[channel.state]),
      channel.message ? make("div", { class: TAGS[channel.state] === "bad" ? "why bad" : "why" }, plain(channel.message)) : null,
      make("div", { class: "facts" }, ...facts(channel), held,
        channel.dead ? make("a", { class: "bad", href: address("dead", [], { channel: channel.name }), "data-key": `dead ${channel.name}` }, plural(channel.dead, "dead letter")) : null),
      channel.failures.length ? make("details", { open: channel.state === "up" ? null : "" },
        make("summary", { "data-key": `errors ${channel.name}` }, "Last errors"),
        make("ul", { class: "errors" }, ...channel.failures.map(failure))) : null),
    track ? make("div", { class: "charts" }, states(track, timeline, NOW[channel.state] ?? 4, CHANNEL_MARKS),
      make("div", { class: "sparks" }, spark("pending", track.pending, points, channel.pending), spark("delay", track.delay, points, null, "seconds"))) : make("div", { class: "charts" }));
}

export function open(main) {
  let answer = null;
  let latest = {};
  const count = make("span", { class: "count" });
  const tools = make("div", { class: "tools" });
  const scale = make("div", { class: "scale" });
  const items = make("ul", { class: "list", id: "channels" });
  const holder = make("div", { class: "card" }, scale, items);
  const nothing = make("div", {});
  main.append(make("section", { "aria-labelledby": "title" },
    make("h2", { id: "title", tabindex: "-1" }, "Channels ", count), tools, holder, nothing));
  const fetch = timelines((found) => {
    answer = found ?? answer;
    drawAll();
  });

  function drawAll() {
    const has = words(latest.q);
    const all = channels();
    const found = ordered(all).filter((one) => has(one.name, one.type, one.state, one.message));
    count.textContent = latest.q ? `${counted(found.length)} of ${counted(all.length)}` : counted(all.length);
    holder.hidden = !found.length;
    show(nothing, [found.length, all.length], () => (found.length ? ""
      : all.length ? empty("The search finds none.")
      : empty("No channels: rows show as gauges only. To send notifications, add one under ",
        make("code", {}, "channels:"), " and name it in an alert's ", make("code", {}, "notify:"), ".")));
    show(tools, chosen(latest.hours), () => [range(latest.hours), legend(CHANNEL_MARKS)]);
    show(scale, [answer?.from, answer?.step], () => (answer ? axis(answer, Object.values(answer.channels)[0]?.marks.length ?? 0) : ""));
    list(items, found.map((channel) => ({ channel, timeline: trackOf(answer, "channels", channel.name) })), (one) => one.channel.name, item);
  }

  return (changed, { query }) => {
    latest = query;
    fetch(changed, query.hours);
    if (touched(changed, "everything", "address", "channels", "channel:")) drawAll();
  };
}
