"""Templates and conditions tried out before a notification needs them.

`offline` knows nothing of the columns of a row, so whatever a template does with them works; what fails all the same
fails for every row: a label or an annotation that the alert does not have, text that is not JSON whatever is in it.
`online` tries the same on a real row, or on made-up values of the real columns.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from tocsin.alert import Alert, EventAlert
from tocsin.channels.settings import Trial
from tocsin.config.resolved import ChannelConfig, Config
from tocsin.config.validation import from_template
from tocsin.envelope import CONDITION_VARIABLES, View, build, condition_variables, scope, variables
from tocsin.errors import Problem
from tocsin.model import Columns, Kind, Row, Transition
from tocsin.templates import Condition, FixedNames, Template, TemplateCode, TemplateError

TEXT, JSON = 25, (114, 3802)
"""Type numbers of PostgreSQL."""
_EXAMPLES = {
    **dict.fromkeys((20, 21, 23, 26), "1"),
    **dict.fromkeys((700, 701, 1700), "1.5"),
    **dict.fromkeys(JSON, "{}"),
    16: "t",
    17: "\\x00",
    1082: "2026-01-02",
    1083: "03:04:05",
    1114: "2026-01-02 03:04:05",
    1184: "2026-01-02 03:04:05+00",
    1186: "01:02:03",
    2950: "00000000-0000-4000-8000-000000000000",
}
"""Type number -> text of a made-up value; of all other types it is `text`."""
_MOMENT = 1_767_323_045_000
_ID = "0" * 32


@dataclass(frozen=True, slots=True)
class _Seen:
    """A notification as annotations, conditions and channels see it."""

    annotations: Mapping[str, Any]
    conditions: Mapping[str, Any]
    channels: Mapping[str, Any]


class _Compiled:
    """The trials that were made. Most alerts use the channel's options as they are."""

    def __init__(self) -> None:
        self._made: dict[str, list[tuple[Any, Trial]]] = {}

    def of(self, channel: ChannelConfig, options: Any) -> Trial:
        # The key is quick to find but the same for options that differ in a secret.
        alike = self._made.setdefault(f"{channel.name} {options!r}", [])
        found = next((trial for known, trial in alike if known == options), None)
        if found is None:
            found = channel.settings.trial(options)
            alike.append((options, found))
        return found


Counts: TypeAlias = Callable[[TemplateError, Kind, bool], bool]
"""Whether an error would be one in operation too. The last argument: whether it is an error of a condition."""


def offline(config: Config) -> list[Problem]:
    """Find what is wrong with templates whatever the rows are, and channels that an alert never notifies."""

    def counts(error: TemplateError, kind: Kind, _: bool) -> bool:
        return _certain(error, kind)

    found: dict[Problem, None] = {}
    compiled = _Compiled()
    for alert in config.alerts.values():
        for i, channel, options in config.routes(alert):
            if not _kinds(options.on, alert):
                found[config.places.problem("never_sent", f"alerts.{alert.name}.notify[{i}]", name=channel.name)] = None
        found |= dict.fromkeys(_tried(config, alert, partial(_any_row, alert), counts, compiled))
    return list(found)


def online(config: Config, alert: Alert, columns: Columns, row: Row | None) -> Iterator[Problem]:
    """Find what is wrong with the templates of an alert, on a row or, without one, on made-up values."""
    # Made-up JSON and arrays are empty, and what a template looks for in them says nothing about real ones.
    flat = all(column.oid in (TEXT, *_EXAMPLES) and column.oid not in JSON for column in columns)

    def counts(error: TemplateError, kind: Kind, condition: bool) -> bool:
        if row is not None or _certain(error, kind):
            return True
        if condition:
            return error.code is TemplateCode.UNKNOWN_KEY
        return error.code is not TemplateCode.UNFIT and (flat or bool(error.available))

    values = row if row is not None else tuple(_EXAMPLES.get(column.oid, "text") for column in columns)
    tried = "" if row is not None else ", with made-up values since there is no row now"
    return _tried(config, alert, partial(_row, alert, columns, values), counts, _Compiled(), tried)


def _certain(error: TemplateError, kind: Kind) -> bool:
    """Whether a template fails whatever is in the row."""
    if error.code is TemplateCode.UNKNOWN_KEY:
        return error.name == kind.value  # a mapping by `status` that lacks one
    return error.code in (TemplateCode.UNKNOWN_NAME, TemplateCode.UNSET_VARIABLE, TemplateCode.NOT_JSON)


def _kinds(on: Collection[Kind], alert: Alert) -> list[Kind]:
    """The kinds of notifications that a channel gets from the alert."""
    if isinstance(alert, EventAlert):
        return [kind for kind in (Kind.EVENT,) if kind in on]
    never = (Kind.EVENT,) if alert.repeat_interval else (Kind.EVENT, Kind.REPEATED)
    return [kind for kind in Kind if kind in on and kind not in never]


def _tried(
    config: Config,
    alert: Alert,
    seen_as: Callable[[Kind], _Seen],
    counts: Counts,
    compiled: "_Compiled",
    tried: str = "",
) -> Iterator[Problem]:
    """Try everything for each kind of notification that is sent, and report each place once."""
    routes = [(f"alerts.{alert.name}.notify[{i}]", channel, options) for i, channel, options in config.routes(alert)]
    failed: set[str] = set()
    for kind in Kind:
        sent = [route for route in routes if kind in _kinds(route[2].on, alert)]
        if not sent:
            continue
        one = seen_as(kind)
        errors = [
            (f"alerts.{alert.name}.annotations.{name}", _error(Template(text).render, one.annotations), False)
            for name, text in alert.annotations.items()
        ]
        for route, channel, options in sent:
            if options.when is not None:
                holds = Condition(options.when, known=CONDITION_VARIABLES).holds
                errors.append((f"{route}.when", _error(holds, one.conditions), True))
            found = compiled.of(channel, options)(one.channels)
            errors += [(_place(config, route, channel.name, error), error, False) for error in found]
        for path, error, condition in errors:
            if error is not None and path not in failed and counts(error, kind, condition):
                failed.add(path)
                words = f" (tried for {kind.value!r} of alert {alert.name}{tried})"
                yield config.places.located(from_template(error, path, words))


def _error(render: Callable[[Mapping[str, Any]], object], variables: Mapping[str, Any]) -> TemplateError | None:
    try:
        render(variables)
    except TemplateError as error:
        return error
    return None


def _place(config: Config, route: str, channel: str, error: TemplateError) -> str:
    """The place of an option: in the alert if it sets the option, else in the channel."""
    option = error.place.partition(".")[0].partition("[")[0]
    own = f"{route}.{option}" in config.places.lines
    return f"{route if own else f'channels.{channel}'}.{error.place}"


def _row(alert: Alert, columns: Columns, row: Row, kind: Kind) -> _Seen:
    view = View(
        labels=tuple(alert.labels.items()),
        static_labels=tuple(alert.static_labels.items()),
        value=alert.value,
        annotations={name: Template("text") for name in alert.annotations},
    )
    transition = Transition(
        alert=alert.name,
        fingerprint=_ID,
        kind=kind,
        started_at=_MOMENT,
        at=_MOMENT,
        columns=columns,
        row=row,
        previous=row if kind is Kind.UPDATED else None,
    )
    return _Seen(
        annotations=variables(transition, _ID, view),
        conditions=condition_variables(transition, row, view),
        channels=scope(build(transition, _ID, view)),
    )


def _any_row(alert: Alert, kind: Kind) -> _Seen:
    one = _Anything(1)
    moment = "2026-01-02T03:04:05.000Z"
    envelope: dict[str, Any] = {
        "id": _ID,
        "alert": alert.name,
        "status": kind.value,
        "fingerprint": _ID,
        "started_at": moment,
        "at": moment,
        "labels": FixedNames({**dict.fromkeys(alert.labels, one), **alert.static_labels}),
        "value": None if alert.value is None else one,
        "row": _AnyColumn(),
        "previous": _AnyColumn() if kind is Kind.UPDATED else None,
        "annotations": FixedNames(dict.fromkeys(alert.annotations, one)),
    }
    envelope["merged"] = [FixedNames(envelope)]
    return _Seen(envelope, envelope, envelope)


class _Anything(int):
    """A value of which nothing is known: it has every attribute and every part, and prints as a number, which is valid
    JSON inside of quotes and outside."""

    def __getattr__(self, name: str) -> "_Anything":
        if name.startswith("_") or name in ("unsafe_callable", "alters_data"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: object) -> "_Anything":
        return self

    def __call__(self, *_: object, **__: object) -> "_Anything":
        return self

    def __iter__(self) -> Iterator["_Anything"]:
        return iter((self,))

    def __len__(self) -> int:
        return 1


class _AnyColumn(dict[str, _Anything]):
    """A row with every column."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> _Anything:
        return _Anything(1)

    def get(self, *_: object) -> _Anything:
        return _Anything(1)
