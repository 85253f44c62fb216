"""Routes that would go by a column whose changes the alert ignores.

A change of an ignored column makes no transition. A `when` that reads one would go by the value of an earlier row, and
a `group_by` that names one would look for a row's end in another group than its beginning.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tocsin.alert import RowAlert
from tocsin.config.resolved import Config
from tocsin.errors import Problem

if TYPE_CHECKING:
    from jinja2 import nodes


def problems(config: Config) -> list[Problem]:
    """One for each place of a route and column in question."""
    found = []
    for alert in config.row_alerts.values():
        for i, channel in enumerate(alert.notify if alert.ignore else ()):
            route = f"alerts.{alert.name}.notify[{i}]"
            options = config.channels[channel].routes[alert.name]
            for setting, place, column in _gone_by(alert, options.when, options.group_by):
                written = setting if f"{route}.{setting}" in config.places else f"channels.{channel}.{setting}"
                message = (
                    f"{channel} would go by the column {column}, whose changes this alert ignores;"
                    f" take {column} out of {written}, or out of ignore"
                )
                found.append(config.problem(message, f"{route}.{place}"))
    return found


def _gone_by(alert: RowAlert, when: str | None, group_by: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """The ignored columns that a route goes by, each behind the setting that names it and the place in that."""
    if when is not None:
        read = {column for variable, key in _read(when) for column in _columns(alert, variable, key)}
        yield from (("when", "when", column) for column in alert.ignore if column in read)
    for number, name in enumerate(group_by):
        column = alert.labels.get(name, name)
        if column in alert.ignore:
            yield "group_by", f"group_by[{number}]", column


def _columns(alert: RowAlert, variable: str, key: str | None) -> tuple[str | None, ...]:
    """The columns that a condition reads with a variable. `key`: what of it, None for all of it."""
    match variable:
        case "row":
            return alert.ignore if key is None else (key,)
        case "labels":
            return tuple(alert.labels.values()) if key is None else (alert.labels.get(key),)
        case "value":
            return (alert.value,)
    return ()


def _read(condition: str) -> list[tuple[str, str | None]]:
    from jinja2 import Environment

    # Only its syntax tree is wanted; that it compiles is known.
    return [*_within(Environment(autoescape=True).parse("{{ " + condition + " }}"))]


def _within(node: "nodes.Node") -> Iterator[tuple[str, str | None]]:
    """Each variable in an expression with what is read of it, None for all."""
    from jinja2 import nodes

    match node:
        case nodes.Call(node=nodes.Getattr(node=nodes.Name(name=name), attr=method), args=arguments):
            match method, arguments:
                case "get", [nodes.Const(value=str(key)), *_]:
                    yield name, key
                case _:
                    yield name, None
            for child in node.iter_child_nodes(exclude=("node",)):
                yield from _within(child)
        case nodes.Getattr(node=nodes.Name(name=name), attr=key):
            yield name, key
        case nodes.Getitem(node=nodes.Name(name=name), arg=nodes.Const(value=str(key))):
            yield name, key
        case nodes.Name(name=name):
            yield name, None
        case _:
            for child in node.iter_child_nodes():
                yield from _within(child)
