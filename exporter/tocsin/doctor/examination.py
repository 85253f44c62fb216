"""All checks of a configuration, in the order in which they are reported."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tocsin.channels.base import Channel, Level
from tocsin.config import Config, SourceConfig
from tocsin.config.check import check, check_online, warnings_online
from tocsin.doctor import disk, history, outbox, process, receivers, rows, servers
from tocsin.doctor.findings import Check, Finding, Report, Severity
from tocsin.doctor.servers import Place
from tocsin.doctor.topics import kept as topics_kept
from tocsin.errors import Problem, TocsinError
from tocsin.postgres import Server
from tocsin.sources.base import Verifiable
from tocsin.sources.settings import MaterializeConfig, PostgresConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the configuration names, as `tocsin run` would make it."""

    sources: Mapping[str, Any]
    channels: Mapping[str, Channel | Level]
    unusable: Sequence[Problem]
    """Why others cannot be made."""


Status = Callable[[], Mapping[str, Any]]
"""Asks the running process. Raises TocsinError."""

_POOLED_SUBSCRIBE = "a subscription holds its connection for ever, and the pooler may end or share it"
_CHECK = "`tocsin check --online` repeats this check alone"
_AT_SERVERS = ("source", "refused", "unchecked")
"""Codes of problems that a server reported, so that the file may be right."""


def checks(
    config: Config,
    parts: Parts,
    *,
    downtime: float,
    status: Status,
    version: str,
) -> Iterator[Check]:
    """List all checks. `downtime`: how many seconds Tocsin may be down without missing a row."""
    yield Check(
        place="configuration",
        name="check",
        run=partial(_as_check_does, config, parts),
        limit=300.0,
    )
    for source in config.sources.values():
        yield from _of_source(config, source, downtime)
    yield from _of_ledger(config)
    for name, channel in config.channels.items():
        if isinstance(settings := channel.settings, Server):
            place = Place(path=f"channels.{name}", settings=settings, kind="postgres")
            yield Check(place=place.path, name="connection", run=partial(servers.reached, place))
        if channel.kind == "webhook":
            url = settings.url.get_secret_value()
            yield Check(place=f"channels.{name}", name="receiver", run=partial(receivers.reached, name, url, 10.0))
        elif channel.kind != "console" and name in parts.channels and not _asks(parts.channels[name]):
            yield Check(place=f"channels.{name}", name="credentials", run=partial(_unverifiable, name, channel.kind))
    yield Check(place="process", name="status", run=partial(_of_process, config, status, version))


async def _as_check_does(config: Config, parts: Parts) -> Sequence[Finding]:
    """What `tocsin check --online` reports."""
    located = (config.places.located(one) for one in parts.unusable)
    online = await check_online(config, parts.sources, parts.channels)
    problems: Sequence[Problem] = [*dict.fromkeys([*check(config), *located, *online])]
    wrong = {_part(one.path) for one in problems}
    # A server that does not answer is a finding of its own check.
    served = {f"sources.{name}" for name, one in config.sources.items() if isinstance(one.settings, Server)}
    problems = [one for one in problems if not (one.code == "source" and one.path in served)]
    found = [_finding(Severity.ERROR, one) for one in problems]
    found += [_finding(Severity.WARNING, one) for one in (*config.warnings, *await warnings_online(config))]
    right = {"configuration": "it is valid here"}
    for alert in config.alerts.values():
        if hasattr(parts.sources.get(alert.source), "describe") and f"sources.{alert.source}" not in wrong:
            right[f"alerts.{alert.name}"] = "what it names is there, its templates render, and the role may read it"
    asked = {f"sources.{n}": "it would deliver" for n, one in parts.sources.items() if isinstance(one, Verifiable)}
    asked |= {f"channels.{n}": "it takes the login and what is sent" for n, one in parts.channels.items() if _asks(one)}
    unused = _unused(config)
    right |= {place: words for place, words in asked.items() if place not in unused}
    found += [Report(place, "check").ok(words) for place, words in right.items() if place not in wrong]
    # Most are asked about what alerts name, and so about nothing.
    words = "not asked whether it would work, since no alert uses it"
    found += [Report(place, "check").skipped(words) for place in unused if place not in wrong]
    return found


def _unused(config: Config) -> list[str]:
    """The sources and channels that no alert uses."""
    used = {alert.source for alert in config.alerts.values()}
    sources = [f"sources.{name}" for name in config.sources if name not in used]
    return [*sources, *(f"channels.{name}" for name, one in config.channels.items() if not one.routes)]


def _part(path: str) -> str:
    """The alert, source or channel that a path is in."""
    return ".".join(path.split(".")[:2])


def _asks(channel: Channel | Level) -> bool:
    """Whether a channel can ask its receiver something without sending a notification."""
    return type(channel).verify not in (Channel.verify, Level.verify)


def _finding(severity: Severity, problem: Problem) -> Finding:
    where = problem.file + (f", line {problem.line}" if problem.line else "")
    if problem.code == "unused":
        where = f"remove it from {where}, or name it in an alert"
    else:
        where = f"correct it {'at the server, or ' if problem.code in _AT_SERVERS else ''}in {where}"
    return Finding(
        severity=severity,
        place=problem.path or "configuration",
        check="check",
        message=problem.message,
        fix=f"{where}; {_CHECK}" if problem.file else _CHECK,
    )


def _of_source(config: Config, source: SourceConfig, downtime: float) -> Iterator[Check]:
    settings, path = source.settings, f"sources.{source.name}"
    if source.kind == "kafka":
        alerts = [alert for alert in config.alerts.values() if alert.source == source.name]
        topics = {alert.subject.topic: f"alerts.{alert.name}" for alert in alerts if alert.subject.topic}
        if topics:
            run = partial(topics_kept, source.name, settings, topics, downtime, rows=settings.state)
            yield Check(place=path, name="retention", run=run)
    if not isinstance(settings, Server):
        return  # its `verify` is part of `check --online`
    streams = isinstance(settings, MaterializeConfig)
    place = Place(
        path=path,
        settings=settings,
        kind="materialize" if streams else "postgres",
        max_ahead=settings.max_ahead if isinstance(settings, MaterializeConfig) else None,
        direct=_POOLED_SUBSCRIBE if streams else "",
    )
    yield Check(place=path, name="connection", run=partial(servers.reached, place))
    for alert in config.row_alerts.values():
        if alert.source != source.name:
            continue
        at = f"alerts.{alert.name}"
        # Without a ledger nothing is notified, so nothing can be missed.
        if isinstance(settings, MaterializeConfig) and alert.transition_channels:
            run = partial(history.reaches_back, alert, at, settings, downtime)
            yield Check(place=at, name="history", run=run, limit=120.0)
        elif isinstance(settings, PostgresConfig) and alert.notify:
            yield Check(place=at, name="changes", run=partial(rows.restless, alert, settings))


def _of_ledger(config: Config) -> Iterator[Check]:
    if not config.needs_ledger:
        return
    path = "ledger.path"
    if (server := config.ledger.server()) is not None:
        path = "ledger.url"
        place = Place(path=path, settings=server, kind="postgres")
        yield Check(place=path, name="connection", run=partial(servers.reached, place))
        yield Check(place=path, name="commit", run=partial(servers.keeps_ledger, place))
    else:
        yield Check(place=path, name="disk", run=partial(asyncio.to_thread, disk.examined, Path(config.ledger.path)))
    yield Check(place=path, name="outbox", run=partial(outbox.examined, config))


async def _unverifiable(name: str, kind: str) -> Sequence[Finding]:
    words = f"a channel of type {kind} can only be tried by sending"
    return [Report(f"channels.{name}", "credentials").skipped(words)]


async def _of_process(config: Config, status: Status, version: str) -> Sequence[Finding]:
    try:
        return process.examined(await asyncio.to_thread(status), config, version)
    except TocsinError as error:
        return [Report("process", "status").skipped(str(error))]
