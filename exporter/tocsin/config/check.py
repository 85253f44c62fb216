"""What can be checked before anything runs: without the network (`check`), and with it (`check_online`).

Nothing is constructed here. Who calls brings sources and channels as functions and objects.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tocsin import registry
from tocsin.alert import Alert, EventAlert
from tocsin.channels.base import Channel, Level
from tocsin.config import trial
from tocsin.config.columns import named_columns
from tocsin.config.resolved import ChannelConfig, Config
from tocsin.config.validation import nearest, suggestion
from tocsin.errors import Problem, SourceError, SourceReason
from tocsin.faults import unexpected
from tocsin.model import Columns, Event, Kind, Row, Transition
from tocsin.sources.base import Verifiable
from tocsin.sources.documents import with_nested
from tocsin.values import typed

if TYPE_CHECKING:
    from tocsin.templates import Structure, Template, TemplateError

Describe = Callable[[Alert], Awaitable[Columns | None]]
"""The columns of an alert's relation or events, as `Source.describe`; None where the source cannot know them. Raises
SourceError."""

Sample = Callable[[Alert], Awaitable[Row | None]]
"""A row of it, if there is one now, as `Source.sample`; raises SourceError."""

_AT_ONCE = 8
_OF_THE_SERVER = (SourceReason.CONNECT, SourceReason.AUTH, SourceReason.DISCONNECTED)
_TEXT, _JSON = 25, (114, 3802)
_NUMERIC = frozenset({16, 20, 21, 23, 26, 700, 701, 1082, 1114, 1184, 1186, 1700, 16460, 16462, 16464, 16552})
"""Types that a gauge can show: numbers, booleans, and moments and spans as seconds."""
_EXAMPLES = {
    **dict.fromkeys((20, 21, 23, 26, 16460, 16462, 16464), "1"),
    **dict.fromkeys((700, 701, 1700), "1.5"),
    **dict.fromkeys(_JSON, "{}"),
    16: "t",
    17: "\\x00",
    1082: "2026-01-02",
    1083: "03:04:05",
    1114: "2026-01-02 03:04:05",
    1184: "2026-01-02 03:04:05+00",
    1186: "01:02:03",
    2950: "00000000-0000-4000-8000-000000000000",
    16552: "1767323045000",
}
_MOMENT = 1_767_323_045_000
_ID = "0" * 32


def check(config: Config) -> list[Problem]:
    """What this machine can tell: directories and files that are missing, packages that are not installed, handlers
    that cannot be imported."""
    problems: list[Problem] = []
    for path, file in (("ledger.path", config.ledger.path), ("log.output", config.log.output)):
        directory = Path(file).parent
        if file not in ("stderr", "stdout") and not directory.is_dir():
            problems.append(config.problem(f"there is no directory {directory}", path))
    for name, source in config.sources.items():
        for key in ("sslrootcert", "sslcert", "sslkey"):
            certificate = getattr(source.settings, key, None)
            if certificate not in (None, "system") and not Path(certificate).is_file():
                problems.append(config.problem(f"there is no file {certificate}", f"sources.{name}.{key}"))
    for section, members in (("sources", config.sources), ("channels", config.channels)):
        for name, member in members.items():
            if member.settings.package and find_spec(member.settings.package) is None:
                remedy = f"needs a package: pip install 'tocsin[{member.kind}]'"
                problems.append(config.problem(remedy, f"{section}.{name}.type"))
    for name, channel in config.channels.items():
        found = registry.channel_problems(channel.kind, name, channel.settings, channel.routes)
        problems += [config.problem(problem.message, problem.path) for problem in found]
    return problems


async def check_online(
    config: Config,
    describe: Describe,
    sample: Sample | None = None,
    channels: Mapping[str, Channel | Level] | None = None,
    sources: Mapping[str, object] | None = None,
) -> list[Problem]:
    """What the servers can tell: whether relations and columns exist (of events, where a source has `describe`),
    whether templates render, whether channels would accept a notification and sources would deliver rows or events
    (their `verify`)."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def guarded(path: str, work: Awaitable[list[Problem]]) -> list[Problem]:
        async with gate:
            try:
                return await work
            except Exception as error:  # noqa: BLE001 - one that cannot be checked must not hide the others
                return [config.problem(f"cannot be checked: {unexpected(error)}", path)]

    # Only some sources know the columns of events before they take any.
    known = [
        alert
        for alert in config.alerts.values()
        if not isinstance(alert, EventAlert) or hasattr((sources or {}).get(alert.source), "describe")
    ]
    basis = {name: getattr(source, "described_by", "") for name, source in (sources or {}).items()}
    alerts = [
        guarded(f"alerts.{alert.name}", _check_alert(config, alert, describe, sample, basis.get(alert.source, "")))
        for alert in known
    ]
    ways = [
        guarded(path, _verify(config, path, channel.verify()))
        for path, channel in ((f"channels.{name}", channel) for name, channel in (channels or {}).items())
    ]
    ways += [
        guarded(path, _verify(config, path, source.verify(_taken(config, name))))
        for path, name, source in ((f"sources.{name}", name, source) for name, source in (sources or {}).items())
        if isinstance(source, Verifiable)
    ]
    found = await asyncio.gather(*alerts, *ways)
    of_alerts = _told_once(chain.from_iterable(found[: len(alerts)]))
    return list(dict.fromkeys([*of_alerts, *chain.from_iterable(found[len(alerts) :])]))


def _taken(config: Config, source: str) -> list[str]:
    """The names of the events that alerts take from a source."""
    return sorted({alert.event_name for alert in config.event_alerts.values() if alert.source == source})


async def _verify(config: Config, path: str, sentences: Awaitable[Sequence[str]]) -> list[Problem]:
    return [config.problem(sentence, path) for sentence in await sentences]


def _told_once(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Problems of alerts, those of a source once: each alert may have met the same one in other words."""
    told = set()
    for problem in problems:
        if problem.path.startswith("sources."):
            if problem.path in told:
                continue
            told.add(problem.path)
        yield problem


async def _check_alert(
    config: Config, alert: Alert, describe: Describe, sample: Sample | None, basis: str
) -> list[Problem]:
    """`basis`: what the columns are known from, where they are not those of a relation."""
    try:
        columns = await describe(alert)
        if columns is None:
            return []
        row = await sample(alert) if sample is not None else None
    except SourceError as error:
        if isinstance(alert, EventAlert):
            return []  # the source's own `verify` says it, once for all its alerts
        where = next(name for name in ("relation", "query", "topic") if getattr(alert.subject, name) is not None)
        at_server = error.reason in _OF_THE_SERVER
        path = f"sources.{alert.source}" if at_server else f"alerts.{alert.name}.{where}"
        return [config.problem(str(error), path)]
    problems = list(_column_problems(config, alert, columns, row, basis))
    if isinstance(alert, EventAlert) and row is not None:
        columns, row = _with_nested(config, alert, columns, row)
    return [*problems, *_template_problems(config, alert, columns, row)]


def _with_nested(config: Config, alert: Alert, columns: Columns, row: Row) -> tuple[Columns, Row]:
    """An event's columns and row with those of the nested names that the alert uses."""
    event = Event(name="", id="", at=0, columns=columns, row=row)
    whole = with_nested(event, [name for _, name in named_columns(config, alert) if "." in name])
    return whole.columns, whole.row


def _column_problems(config: Config, alert: Alert, columns: Columns, row: Row | None, basis: str) -> Iterator[Problem]:
    names = [column.name for column in columns]
    base = f"alerts.{alert.name}"
    for path, name in named_columns(config, alert):
        if name in names:
            continue
        head = name.partition(".")[0]
        if name != head and any(column.name == head and column.oid in _JSON for column in columns):
            message = _nested_problem(config, alert, name, columns, row)
        else:
            near = nearest(name, names)
            where = f" in {basis}" if basis else ""
            message = f"there is no column {name!r}{where}{near}; there are {', '.join(names)}"
        if message:
            yield config.problem(message, f"{base}.{path}")
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield config.problem(f"there are several columns {name!r}; give each its own name", base)
    for column in columns:
        if column.name == alert.value and column.oid not in _NUMERIC:
            message = f"{column.name} is {_type(column.oid)}, which is no number; cast it in the view"
            yield config.problem(message, f"{base}.value")


def _nested_problem(config: Config, alert: Alert, name: str, columns: Columns, row: Row | None) -> str:
    """What is wrong with the name of a field inside of a JSON column; empty for nothing, or where no one can know."""
    head, _, field = name.partition(".")
    if not isinstance(alert, EventAlert):
        return (
            f"there is no column {name!r}; a field of {head} needs a column of its own: select it in the view or query,"
            f" as in {head}->>'{field}'"
        )
    if row is None or any(column.name == name for column in _with_nested(config, alert, columns, row)[0]):
        return ""
    held = next(typed(column, text) for column, text in zip(columns, row, strict=True) if column.name == head)
    if not isinstance(held, dict):
        return ""
    near = suggestion(field, [str(key) for key in held])
    return f"there is no field {field!r} in {head} of the event that was looked at{near}"


def _type(oid: int) -> str:
    from psycopg import postgres

    info = postgres.types.get(oid)
    return f"of type {info.name}" if info else f"of type number {oid}"


def _template_problems(config: Config, alert: Alert, columns: Columns, row: Row | None) -> list[Problem]:
    """Render every template once for every kind of notification that is sent, on a real row or on made-up values."""
    from tocsin.envelope import View, build, seen, variables
    from tocsin.envelope import scope as scope_of
    from tocsin.templates import Template

    view = View(labels=tuple(alert.labels.items()), static_labels=tuple(alert.static_labels.items()), value=alert.value)
    tried = _Trial(config, columns, real=row is not None)
    values = row if row is not None else tuple(_EXAMPLES.get(column.oid, "text") for column in columns)
    for kind in Kind:
        told = [channel for channel in alert.notify if kind in trial.kinds(config.channels[channel], alert)]
        if not told:
            continue
        transition = Transition(
            alert=alert.name,
            fingerprint=_ID,
            kind=kind,
            started_at=_MOMENT,
            at=_MOMENT,
            columns=columns,
            row=values,
            previous=values if kind is Kind.UPDATED else None,
        )
        scope = variables(transition, _ID, view)
        for name, text in alert.annotations.items():
            path = f"alerts.{alert.name}.annotations.{name}"
            tried.render(Template(text, place=path), scope, path, kind)
        rendered = View(
            labels=view.labels,
            static_labels=view.static_labels,
            value=view.value,
            annotations={name: Template("text") for name in alert.annotations},
        )
        envelope = build(transition, _ID, rendered)
        for channel in told:
            tried.condition(alert, config.channels[channel], seen(transition, values, view), kind)
            tried.channel(alert, config.channels[channel], scope_of(envelope), kind)
    return tried.problems


class _Trial:
    """Templates tried out, and what became of them, once each."""

    def __init__(self, config: Config, columns: Columns, *, real: bool) -> None:
        self.problems: list[Problem] = []
        self._config = config
        self._real = real
        # Made-up JSON and arrays are empty, and what a template looks for in them says nothing about real ones.
        flat = {_TEXT, *_EXAMPLES} - {*_JSON}
        self._sure = real or all(column.oid in flat for column in columns)
        self._failed: set[str] = set()

    def render(self, template: "Template | Structure", scope: Mapping[str, Any], path: str, kind: Kind) -> None:
        """`path` is the template's own place."""
        from tocsin.templates import TemplateError

        if path in self._failed:
            return
        try:
            template.render(scope)
        except TemplateError as error:
            if self._tells(error):
                self._failed.add(path)
                # Of a structure, the place is that of the leaf, which is below the path.
                self.problems.append(self._config.problem(f"{error.message} ({self._tried(kind)})", error.place))

    def condition(self, alert: Alert, channel: ChannelConfig, scope: Mapping[str, Any], kind: Kind) -> None:
        """The `when` of a route. Only what it names is looked at: what it says of made-up values means nothing."""
        from tocsin.envelope import CONDITION_VARIABLES
        from tocsin.templates import Condition, TemplateCode, TemplateError

        when = channel.routes[alert.name].when
        path = f"alerts.{alert.name}.notify[{alert.notify.index(channel.name)}].when"
        if when is None or path in self._failed:
            return
        try:
            Condition(when, place=path, known=CONDITION_VARIABLES).holds(scope)
        except TemplateError as error:
            if self._real or error.code is TemplateCode.UNKNOWN_KEY:
                self._failed.add(path)
                self.problems.append(self._config.problem(f"{error.message} ({self._tried(kind)})", path))

    def channel(self, alert: Alert, channel: ChannelConfig, scope: Mapping[str, Any], kind: Kind) -> None:
        """Every template of a channel, of those that can try out what they send; else of the alert's options."""
        for fault in channel.settings.trial(channel.routes[alert.name])(scope):
            self._fault(alert, channel, fault, kind)

    def _fault(self, alert: Alert, channel: ChannelConfig, fault: "TemplateError", kind: Kind) -> None:
        from tocsin.templates import TemplateCode

        path = f"{channel.name}: {fault.place}"
        # A made-up text is no address, but it says nothing about a real one.
        told = trial.certain(fault, kind) or (self._real if fault.code is TemplateCode.UNFIT else self._tells(fault))
        if told and path not in self._failed:
            self._failed.add(path)
            self.problems.append(trial.problem(self._config, alert, channel.name, fault, self._tried(kind)))

    def _tells(self, error: "TemplateError") -> bool:
        return self._sure or bool(error.available)

    def _tried(self, kind: Kind) -> str:
        return f"tried for {kind.value!r}" + ("" if self._real else ", with made-up values since there is no row now")
