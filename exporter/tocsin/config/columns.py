"""The columns that an alert and the options of its channels name. Pure."""

from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, nodes
from pydantic import BaseModel

from tocsin.alert import Alert, EventAlert, RowAlert
from tocsin.config.resolved import Config
from tocsin.errors import Problem


def named_columns(config: Config, alert: Alert) -> Iterator[tuple[str, str]]:
    """Yield every column that the alert or its channels' options name, each after the setting that names it: a path
    below the alert, such as `notify[0].group_by[1]`."""
    for label, column in alert.labels.items():
        yield f"labels.{label}", column
    for i, column in enumerate(alert.key):
        if isinstance(alert, EventAlert) or column not in alert.labels.values():
            yield f"key[{i}]", column
    for i, column in enumerate(alert.dedupe_by if isinstance(alert, EventAlert) else ()):
        yield f"dedupe_by[{i}]", column
    if alert.value is not None:
        yield "value", alert.value
    for i, column in enumerate(_ignored(alert)):
        yield f"ignore[{i}]", column
    yield from route_columns(config, alert)


def route_columns(config: Config, alert: Alert) -> Iterator[tuple[str, str]]:
    """Yield the columns that the options of its channels name, as `named_columns` does."""
    for i, _, options in config.routes(alert):
        for path, column in [*_columns_of(options), *_groups(alert, options)]:
            yield f"notify[{i}].{path}", column


def _ignored(alert: Alert) -> tuple[str, ...]:
    return alert.ignore if isinstance(alert, RowAlert) else ()


def _columns_of(options: BaseModel) -> Iterator[tuple[str, str]]:
    """The entries of a list `payload` or `key`, and the value of every field `column`."""
    for setting in ("payload", "key"):
        names = getattr(options, setting, None)
        if isinstance(names, list):
            yield from ((f"{setting}[{i}]", column) for i, column in enumerate(names))
    for name in type(options).model_fields:
        value = getattr(options, name)
        for i, entry in enumerate(value if isinstance(value, list | tuple) else ()):
            column = getattr(entry, "column", None)
            if isinstance(column, str):
                yield f"{name}[{i}].column", column


def _groups(alert: Alert, options: Any) -> Iterator[tuple[str, str]]:
    """The columns of `group_by`, which may also name labels."""
    for i, name in enumerate(options.group_by):
        yield f"group_by[{i}]", alert.labels.get(name, name)


_END_OF_MIXED = {
    "recipients": "goes to the {} of the newest row alone",
    **dict.fromkeys(("to", "cc", "bcc"), "shows all of them to each {}"),
}
"""Setting that names a column of recipients -> what happens to a message with the rows of several of them."""


def mixed_digests(config: Config) -> Iterator[Problem]:
    """Find routes that merge rows of different recipients into one message."""
    for alert in config.alerts.values():
        for i, _, options in config.routes(alert):
            # No group_by may name an ignored column: its recipients have to follow from other columns.
            grouped = {*_ignored(alert), *(column for _, column in _groups(alert, options))}
            for path, column in _columns_of(options) if options.interval else ():
                end = _END_OF_MIXED.get(path.partition("[")[0])
                if end is not None and column not in grouped:
                    at = f"alerts.{alert.name}.notify[{i}].{path}"
                    yield config.places.problem("mixed_recipients", at, name=column, end=end.format(column))


def ignored(config: Config) -> Iterator[Problem]:
    """Find routes that depend on a column whose changes the alert ignores.

    Such a change is no transition. A `when` on the column would use the value of an earlier row, and a `group_by` would
    look for the end of a row in another group than its beginning.
    """
    for alert in config.row_alerts.values():
        for i, channel, options in config.routes(alert) if alert.ignore else ():
            route = f"alerts.{alert.name}.notify[{i}]"
            read = _read(alert, options.when)
            found = [("when", column) for column in alert.ignore if column in read]
            found += [(path, column) for path, column in _groups(alert, options) if column in alert.ignore]
            for path, column in found:
                setting = path.partition("[")[0]
                written = (
                    setting if f"{route}.{setting}" in config.places.lines else f"channels.{channel.name}.{setting}"
                )
                fields = {"name": column, "channel": channel.name, "setting": written}
                yield config.places.problem("ignored_column", f"{route}.{path}", **fields)


def _read(alert: RowAlert, condition: str | None) -> set[str | None]:
    """The columns that a condition reads."""
    if condition is None:
        return set()
    # Only the syntax tree is needed; that it compiles is known.
    tree = Environment(autoescape=True).parse("{{ " + condition + " }}")
    return {column for variable, key in _lookups(tree) for column in _columns(alert, variable, key)}


def _columns(alert: RowAlert, variable: str, key: str | None) -> tuple[str | None, ...]:
    """The columns behind a key of a variable; behind all of it where `key` is None."""
    match variable:
        case "row":
            return alert.ignore if key is None else (key,)
        case "labels":
            return tuple(alert.labels.values()) if key is None else (alert.labels.get(key),)
        case "value":
            return (alert.value,)
    return ()


def _lookups(node: nodes.Node) -> Iterator[tuple[str, str | None]]:
    """Yield each variable in an expression with the key that is read of it, None for all of it."""
    match node:
        case nodes.Call(node=nodes.Getattr(node=nodes.Name(name=name), attr=method), args=arguments):
            match method, arguments:
                case "get", [nodes.Const(value=str(key)), *_]:
                    yield name, key
                case _:
                    yield name, None
            for child in node.iter_child_nodes(exclude=("node",)):
                yield from _lookups(child)
        case nodes.Getattr(node=nodes.Name(name=name), attr=key):
            yield name, key
        case nodes.Getitem(node=nodes.Name(name=name), arg=nodes.Const(value=str(key))):
            yield name, key
        case nodes.Name(name=name):
            yield name, None
        case _:
            for child in node.iter_child_nodes():
                yield from _lookups(child)
