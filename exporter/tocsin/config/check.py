"""What `tocsin check` finds in a valid configuration: without the network (`check`), and with it (`check_online`)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tocsin import registry
from tocsin.alert import Alert, EventAlert
from tocsin.channels.base import Channel, Level
from tocsin.config import trial
from tocsin.config.columns import named_columns
from tocsin.config.parts import parts
from tocsin.config.problems import nearest
from tocsin.config.resolved import ChannelConfig, Config, SourceConfig
from tocsin.config.tls import protection, read_files
from tocsin.errors import ConfigError, LedgerError, LedgerReason, Problem, SourceError, SourceReason
from tocsin.faults import unexpected
from tocsin.ledger import postgres, sqlite
from tocsin.model import Columns, Event, Row
from tocsin.pipeline.columns import unfit_type
from tocsin.sources.base import Verifiable
from tocsin.sources.documents import with_nested
from tocsin.values import typed

_AT_ONCE = 8
_OF_THE_SERVER = (SourceReason.CONNECT, SourceReason.AUTH, SourceReason.DISCONNECTED)


_CERTIFICATES = ("sslrootcert", "sslcert", "sslkey", "tls_ca", "tls_cert", "tls_key")


def check(config: Config) -> list[Problem]:
    """Find what this machine lacks: directories, files, packages, handlers that can be imported."""
    problems = [*_path_problems(config), *_port_problems(config.web.config_file)]
    for section, members in (("sources", config.sources), ("channels", config.channels)):
        for name, member in members.items():
            problems += _missing(config, f"{section}.{name}", member)
    lacking = {one.path.rpartition(".")[0] for one in problems}
    for name, channel in config.channels.items():
        if channel.settings.checked_by_building and f"channels.{name}" not in lacking:
            try:
                registry.channel_module(channel.kind).build(name, channel.settings, channel.routes)
            except ConfigError as error:
                problems += [config.places.located(one) for one in error.problems]
    return problems


def _path_problems(config: Config) -> Iterator[Problem]:
    for path, file in (("ledger.path", config.ledger.path), ("log.output", config.log.output)):
        directory = Path(file).parent
        if file not in ("stderr", "stdout") and not directory.is_dir():
            yield config.places.problem("no_directory", path, name=directory)
        elif Path(file).is_dir():
            yield config.places.problem("is_directory", path, name=file)


def _missing(config: Config, path: str, member: SourceConfig | ChannelConfig) -> Iterator[Problem]:
    """The files and packages that a source or a channel lacks."""
    for key in _CERTIFICATES:
        certificate = getattr(member.settings, key, None)
        if certificate not in (None, "system") and not Path(certificate).is_file():
            yield config.places.problem("missing_file", f"{path}.{key}", name=certificate)
    if member.settings.package and find_spec(member.settings.package) is None:
        yield config.places.problem("missing_package", f"{path}.type", name=member.kind)


def _port_problems(file: str | None) -> Iterable[Problem]:
    try:
        if file is not None:
            protection(read_files(file))
    except ConfigError as error:
        return error.problems
    return ()


async def check_online(
    config: Config,
    sources: Mapping[str, Any],
    channels: Mapping[str, Channel | Level],
    asking: Callable[[str], None] = lambda _: None,
) -> list[Problem]:
    """Find what only the servers know: whether relations and columns exist (of events, where a source has `describe`),
    whether templates render, whether channels would accept a notification and sources would deliver rows or events
    (their `verify`). `asking` is called with the name of an alert when its source is asked."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def guarded(path: str, work: Awaitable[list[Problem]]) -> list[Problem]:
        async with gate:
            try:
                return await work
            except Exception as error:  # noqa: BLE001 - one that cannot be checked must not hide the others
                return [config.places.problem("unchecked", path, why=unexpected(error))]

    work = [
        guarded(f"alerts.{alert.name}", _check_alert(config, alert, sources[alert.source], asking))
        for alert in config.alerts.values()
        # Only some sources know the columns of events before the first event.
        if hasattr(sources.get(alert.source), "describe")
    ]
    for name, source in sources.items():
        if isinstance(source, Verifiable):
            names = {alert.event_name for alert in config.event_alerts.values() if alert.source == name}
            work.append(guarded(f"sources.{name}", _verified(config, f"sources.{name}", source.verify(sorted(names)))))
    if config.needs_ledger:
        server = config.ledger.server()
        path, kept = ("ledger.path", _file(config)) if server is None else ("ledger.url", postgres.verify(server))
        work.append(guarded(path, _verified(config, path, kept)))
    for name, channel in channels.items():
        work.append(guarded(f"channels.{name}", _verified(config, f"channels.{name}", channel.verify())))
    return list(_once_each_source(one for found in await asyncio.gather(*work) for one in found))


async def warnings_online(config: Config) -> list[Problem]:
    """Find what would have `tocsin run` wait, as long as other processes share the ledger."""
    if (server := config.ledger.server()) is None:
        return []
    try:
        why = await postgres.waits_for(server, parts(config))
    except LedgerError:
        return []  # `check_online` reports it, or there is no ledger yet
    return [config.places.problem("waits", "ledger.url", why=why)] if why else []


async def _verified(config: Config, path: str, sentences: Awaitable[Sequence[str]]) -> list[Problem]:
    return [config.places.problem("refused", path, why=why) for why in await sentences]


async def _file(config: Config) -> list[str]:
    """Why `tocsin run` would not use the file of the ledger that is there. One of an older version it would."""
    file = Path(config.ledger.path)
    if not await asyncio.to_thread(file.exists):
        return []
    try:
        await (await asyncio.to_thread(sqlite.open_ledger, file, runs_alerts=False)).close()
    except LedgerError as error:
        return [] if error.reason is LedgerReason.OLDER else [str(error)]
    return []


def _once_each_source(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems, of which several alerts may have met the same one of their source in other words."""
    known = set()
    for one in problems:
        same = one.path if one.code == "source" and one.path.startswith("sources.") else one
        if same not in known:
            yield one
        known.add(same)


async def _check_alert(config: Config, alert: Alert, source: Any, asking: Callable[[str], None]) -> list[Problem]:
    asking(alert.name)
    try:
        columns = await source.describe(alert.subject)
        if columns is None:
            return []
        row = await source.sample(alert.subject)
        # An event is sent whatever its value is; the one that is read shows what they are.
        unfit = await unfit_type(source, columns, alert.value, row, by_text=isinstance(alert, EventAlert))
    except SourceError as error:
        if isinstance(alert, EventAlert):
            return []  # the source's own `verify` reports it, once for all its alerts
        subject = next(name for name in ("relation", "query", "topic") if getattr(alert.subject, name) is not None)
        at_server = error.reason in _OF_THE_SERVER
        path = f"sources.{alert.source}" if at_server else f"alerts.{alert.name}.{subject}"
        return [config.places.problem("source", path, why=str(error))]
    basis = getattr(source, "described_by", "")
    problems = list(_column_problems(config, alert, columns, row, f" in {basis}" if basis else ""))
    if unfit:
        path = f"alerts.{alert.name}.value"
        problems.append(config.places.problem("not_a_number", path, name=alert.value, found=unfit))
    if isinstance(alert, EventAlert) and row is not None:
        columns, row = _with_nested(config, alert, columns, row)
    return [*problems, *trial.online(config, alert, columns, row)]


def _with_nested(config: Config, alert: Alert, columns: Columns, row: Row) -> tuple[Columns, Row]:
    """An event's columns and row with those of the nested names that the alert uses."""
    event = Event(name="", id="", at=0, columns=columns, row=row)
    whole = with_nested(event, [name for _, name in named_columns(config, alert) if "." in name])
    return whole.columns, whole.row


def _column_problems(config: Config, alert: Alert, columns: Columns, row: Row | None, where: str) -> Iterator[Problem]:
    names = [column.name for column in columns]
    base = f"alerts.{alert.name}"
    problem = config.places.problem
    for place, name in named_columns(config, alert):
        path = f"{base}.{place}"
        head, _, field = name.partition(".")
        if name in names:
            continue
        if not field or not any(column.name == head and column.oid in trial.JSON for column in columns):
            near = nearest(name, names)
            yield problem("unknown_column", path, name=name, available=names, where=where, suggestion=near)
        elif not isinstance(alert, EventAlert):
            yield problem("nested_column", path, name=name, column=head, field=field)
        elif (held := _lacks(config, alert, name, columns, row)) is not None:
            yield problem("unknown_field", path, name=field, column=head, available=held)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield problem("ambiguous_column", base, name=name)


def _lacks(config: Config, alert: Alert, name: str, columns: Columns, row: Row | None) -> list[str] | None:
    """The fields of a JSON column of the event, if the nested name is not one of them; None where no one can know."""
    if row is None or any(column.name == name for column in _with_nested(config, alert, columns, row)[0]):
        return None
    head = name.partition(".")[0]
    held = next(typed(column, text) for column, text in zip(columns, row, strict=True) if column.name == head)
    return [str(key) for key in held] if isinstance(held, dict) else None
