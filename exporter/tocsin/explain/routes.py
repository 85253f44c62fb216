"""What a channel gets of a key: by its condition, its groups and its state."""

from collections.abc import Iterator, Mapping

from tocsin.envelope import CONDITION_VARIABLES, View, condition_variables
from tocsin.explain.explanation import RouteExplanation, When
from tocsin.explain.facts import ChannelFacts
from tocsin.explain.words import counted, listed, moment, pairs, sentence
from tocsin.model import Kind, Transition
from tocsin.pipeline.routing import Route
from tocsin.templates import Condition, TemplateError, duration
from tocsin.templates.named import named_values


def explained(channel: ChannelFacts, view: View, of: Transition | None, now: float) -> RouteExplanation:
    """Explain a channel. `of`: the row, as the newest transition that is known of it."""
    route = channel.route
    when = None if route is None or not route.when else _evaluated(route, view, of)
    line = channel.line
    ends = line.due if line is not None and line.due is not None and line.due > now else None
    group = _columns(route.group_by if route and route.interval else (), of)
    order = _columns(route.order_by if route and not route.interval else (), of)
    return RouteExplanation(
        channel=channel.name,
        type=channel.kind,
        state=channel.state,
        message=channel.message,
        kinds=[kind.value for kind in Kind if route is not None and kind in route.kinds],
        when=when,
        interval=route.interval if route else 0.0,
        group=group,
        order=order,
        waiting=line.count if line else 0,
        window_ends=ends,
        says=[*map(sentence, _says(channel, when, group, order, ends, now))],
    )


def _evaluated(route: Route, view: View, of: Transition | None) -> When:
    if of is None:
        return When(expression=route.when, values={}, result=None)
    variables = condition_variables(of, of.row, view)
    values = named_values(route.when, variables)
    try:
        result = Condition(route.when, place="when", known=CONDITION_VARIABLES).holds(variables)
    except TemplateError as error:
        return When(expression=route.when, values=values, result=None, error=str(error))
    return When(expression=route.when, values=values, result=result)


def _columns(names: tuple[str, ...], of: Transition | None) -> dict[str, str | None]:
    texts = {} if of is None else {column.name: text for column, text in zip(of.columns, of.row, strict=False)}
    return {name: texts[name] for name in names if name in texts}


def _says(
    channel: ChannelFacts,
    when: When | None,
    group: Mapping[str, str | None],
    order: Mapping[str, str | None],
    ends: float | None,
    now: float,
) -> Iterator[str]:
    route = channel.route
    if route is None:
        yield "the alert does not notify this channel any more"
        return
    if len(route.kinds) < len(Kind):
        yield f"only {listed([kind.value for kind in Kind if kind in route.kinds])} is sent (on)"
    if when is not None:
        yield _condition(when)
    if route.interval:
        yield _merging(channel, route, group, ends, now)
    elif order:
        yield f"events with the same {pairs(order)} are sent one after another"
    if channel.accepted is not None:
        yield from _accepted(channel.accepted)
    yield from _state(channel, now)


def _condition(when: When) -> str:
    values = f" ({pairs(when.values)})" if when.values else ""
    if when.error:
        return f"when: {when.expression} cannot be evaluated, so it counts as true: {when.error}"
    if when.result is None:
        return f"when: {when.expression}; no row is known to evaluate it with"
    if when.result:
        return f"when: {when.expression} is true for this row{values}"
    return f"when: {when.expression} is false for this row{values}, so it is not notified here"


def _merging(
    channel: ChannelFacts, route: Route, group: Mapping[str, str | None], ends: float | None, now: float
) -> str:
    of = f" of the group {pairs(group)}" if group else ""
    merging = f"notifications{of} within {duration(route.interval)} are merged into one message"
    if channel.line is None:
        return merging
    count = channel.line.count
    waiting = f"; {counted(count, 'notification waits', 'notifications wait')} for it" if count else ""
    opens = "the next one is sent at once" if ends is None else f"the next message may be sent at {moment(ends, now)}"
    return f"{merging}; {opens}{waiting}"


def _accepted(accepted: Mapping[str, bool]) -> Iterator[str]:
    yield "it is sent what fires now, again and again, and has no outbox"
    for receiver, has in accepted.items():
        yield f"{receiver} {'has accepted this as firing' if has else 'does not have this as firing'}"


def _state(channel: ChannelFacts, now: float) -> Iterator[str]:
    if channel.state in (None, "up"):
        if channel.is_limited:
            yield f"its rate limit lets it send again at {moment(now + channel.opens_in, now)}"
        return
    again = f"; it tries again at {moment(now + channel.opens_in, now)}" if channel.opens_in else ""
    yield f"the channel is {channel.state}{f': {channel.message}' if channel.message else ''}{again}"
