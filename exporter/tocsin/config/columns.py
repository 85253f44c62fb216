"""The columns that an alert and the options of its channels name. Pure."""

from collections.abc import Iterator

from pydantic import BaseModel

from tocsin.alert import Alert, EventAlert
from tocsin.config.resolved import Config
from tocsin.errors import Problem


def named_columns(config: Config, alert: Alert) -> Iterator[tuple[str, str]]:
    """Every column that the alert or its channels' options name, each behind the setting that names it: a path below
    the alert, such as `notify[0].group_by[1]`."""
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
    for path, column in route_columns(config, alert):
        yield path, column


def _ignored(alert: Alert) -> tuple[str, ...]:
    return () if isinstance(alert, EventAlert) else alert.ignore


def route_columns(config: Config, alert: Alert) -> Iterator[tuple[str, str]]:
    """The columns that the options of its channels name."""
    for i, channel in enumerate(alert.notify):
        options = config.channels[channel].routes[alert.name]
        for path, column in _columns_of(options):
            yield f"notify[{i}].{path}", column
        for number, name in enumerate(options.group_by):
            # A label may be named, too: it stands for its column.
            yield f"notify[{i}].group_by[{number}]", alert.labels.get(name, name)


_END_OF_MIXED = {
    "recipients": "goes to the {} of the newest row alone",
    **dict.fromkeys(("to", "cc", "bcc"), "shows all of them to each {}"),
}
"""What becomes of a message that merges the rows of several recipients, by the setting that names a column of them."""


def mixed_digests(config: Config) -> list[Problem]:
    """Routes that merge rows of different recipients into one message. It goes to the recipients of one row only, or,
    as a mail does, to those of all its rows, with everyone's rows in it."""
    found = []
    for alert in config.alerts.values():
        for i, channel in enumerate(alert.notify):
            options = config.channels[channel].routes[alert.name]
            if not options.interval:
                continue
            # No group_by may name an ignored column: its recipients have to follow from other columns.
            grouped = {*_ignored(alert), *(alert.labels.get(name, name) for name in options.group_by)}
            for path, column in _columns_of(options):
                end = _END_OF_MIXED.get(path.partition("[")[0])
                if end is not None and column not in grouped:
                    message = (
                        f"with interval, rows of every {column} are merged into one message, which "
                        f"{end.format(column)}; add {column} to group_by"
                    )
                    found.append(config.problem(message, f"alerts.{alert.name}.notify[{i}].{path}"))
    return found


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
