"""Collects what is known of a key of an alert, or of one notification. `tocsin.explain` makes sentences of it."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tocsin.alert import Alert, EventAlert
from tocsin.app import build
from tocsin.channels.base import Message, Output, Rejected
from tocsin.config import Config
from tocsin.dispatch import Dispatcher
from tocsin.dispatch.level import LevelLoop
from tocsin.envelope import View
from tocsin.explain.alerts import explain, last_known
from tocsin.explain.explanation import Explanation, Life, RouteExplanation
from tocsin.explain.facts import ChannelFacts, Facts, NotificationFacts
from tocsin.explain.keys import Asked, Candidate, Found, candidate, find
from tocsin.explain.lives import life
from tocsin.explain.routes import explained
from tocsin.exposition import AlertStatus
from tocsin.faults import unexpected
from tocsin.firing import Firing
from tocsin.ledger.base import Filter, Ledger, Line, Record, Status
from tocsin.model import Columns, Transition
from tocsin.pipeline.routing import address
from tocsin.silences import OpenSilences, Silence
from tocsin.silences.ending import Held

_EPISODES = 200
"""Episodes whose rows are searched."""
_NOTIFICATIONS = 30
"""Notifications of a key that are read at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The firing set of an alert, of a process or as it is stored."""

    columns: Columns
    frontier: int | None
    firings: Sequence[Firing]


class Surroundings(Protocol):
    """What can be asked besides the ledger."""

    running: bool
    """Whether it is a running process."""

    async def rows(self, alert: Alert) -> Rows | None:
        """Return what is in the firing set; None if that is not known."""
        ...

    def status(self, alert: Alert) -> AlertStatus | None:
        """Return the status of an alert; None if it does not run."""
        ...

    def leader(self, alert: str) -> str:
        """Return the process that leads an alert, if it is another one."""
        ...

    def dispatcher(self, channel: str) -> Dispatcher | LevelLoop | None:
        """Return what sends to a channel, if it runs."""
        ...

    async def output(self, channel: str) -> Output | str:
        """Return a configured channel, or why there is none."""
        ...


class Explainer:
    """Explains with one configuration."""

    def __init__(self, config: Config, ledger: Ledger | None, around: Surroundings, now: float) -> None:
        self._config = config
        self._ledger = ledger
        self._around = around
        self._now = now
        self._lines: dict[tuple[str, str], Line] = {}
        self._silences: Sequence[Silence] | None = None
        self._held: dict[str, Sequence[Held]] = {}

    async def key(self, name: str, asked: Asked) -> Explanation:
        """Explain a key of an alert that is configured. Raises LedgerError, and UnknownColumnError."""
        alert = self._config.alerts[name]
        rows = None if isinstance(alert, EventAlert) else await self._around.rows(alert)
        found = await self._found(alert, asked, rows)
        firings = rows.firings if rows is not None else ()
        firing = next((one for one in firings if one.fingerprint == found.fingerprint), None)
        records = await self._records(name, found, firing)
        columns = () if rows is None else rows.columns
        of = last_known(name, columns, firing, records[-1] if records else None)
        others = {record.channel: None for record in records if record.channel not in alert.notify}
        return explain(
            Facts(
                now=self._now,
                alert=alert,
                view=build.view(alert),
                asked=asked,
                found=found,
                running=self._around.running,
                status=self._around.status(alert),
                leader=self._around.leader(name),
                columns=columns,
                firing=firing,
                rows_known=rows is not None,
                frontier=None if rows is None else rows.frontier,
                channels=[await self._channel(channel, alert, of) for channel in (*alert.notify, *others)],
                silences=OpenSilences(await self._all_silences()).active(self._now),
                notifications=[await self._notification(record) for record in records],
                history=self._config.ledger.history,
            )
        )

    async def notification(self, record: Record) -> tuple[Life, RouteExplanation]:
        """Explain a notification, and its route. Raises LedgerError."""
        alert = self._config.alerts.get(record.alert)
        channel = await self._channel(record.channel, alert, record.transition)
        facts = await self._notification(record)
        view = View() if alert is None else build.view(alert)
        return (
            life(facts, channel, self._now),
            explained(channel, view, record.transition, self._now),
        )

    async def _found(self, alert: Alert, asked: Asked, rows: Rows | None) -> Found:
        episodes = [] if self._ledger is None else await self._ledger.episodes(alert.name, _EPISODES)

        def known() -> Iterator[Candidate]:
            for one in rows.firings if rows is not None else ():
                yield candidate(one.fingerprint, rows.columns if rows else (), one.row, one.phase)
            for episode in episodes:
                yield candidate(episode.fingerprint, episode.columns, episode.row)

        hashed = not isinstance(alert, EventAlert)
        return await asyncio.to_thread(find, asked, alert.name, alert.key, known(), hashed=hashed)

    async def _records(self, alert: str, found: Found, firing: Firing | None) -> list[Record]:
        """Return the notifications of the newest episode, oldest first."""
        if self._ledger is None or found.fingerprint is None:
            return []
        wanted = Filter(alert=alert, fingerprint=found.fingerprint, limit=_NOTIFICATIONS)
        records = await self._ledger.find(wanted)
        newest = max((record.started_at for record in records), default=0) if firing is None else firing.started_at
        return [record for record in reversed(records) if record.started_at == newest]

    async def _channel(self, name: str, alert: Alert | None, of: Transition | None) -> ChannelFacts:
        configured = self._config.channels.get(name)
        if configured is None:
            return ChannelFacts(name=name, state="removed" if self._around.running else None)
        route = (
            build.route(self._config, name, alert) if alert is not None and alert.name in configured.routes else None
        )
        running = self._around.dispatcher(name)
        accepted = line = None
        if isinstance(running, LevelLoop) and of is not None:
            accepted = running.accepted(of.alert, of.fingerprint)
        if route is not None and of is not None and self._ledger is not None and not build.is_level(configured):
            key = address(route, of).ordering_key or of.fingerprint
            line = await self._line(name, key)
        return ChannelFacts(
            name=name,
            kind=configured.kind,
            route=route,
            state=None if running is None else running.status.value,
            message="" if running is None else running.message,
            opens_in=running.opens_in if isinstance(running, Dispatcher) else 0.0,
            is_limited=running.is_limited if isinstance(running, Dispatcher) else False,
            accepted=accepted,
            line=line,
        )

    async def _notification(self, record: Record) -> NotificationFacts:
        assert self._ledger is not None  # it has the notification
        pending = record.status is Status.PENDING
        line = await self._line(record.channel, record.ordering_key) if pending else None
        request = await self._request(record, line)
        silences = [] if record.silence is None else await self._all_silences()
        return NotificationFacts(
            record=record,
            attempts=await self._ledger.attempts(record.id),
            request=None if isinstance(request, str) else request,
            request_error=request if isinstance(request, str) else "",
            line=line,
            silence=next((one for one in silences if one.id == record.silence), None),
            held=[] if record.silence is None else await self._held_of(record.fingerprint),
        )

    async def _all_silences(self) -> Sequence[Silence]:
        """Return the silences, read once."""
        if self._silences is None:
            self._silences = [] if self._ledger is None else await self._ledger.list_silences()
        return self._silences

    async def _held_of(self, fingerprint: str) -> Sequence[Held]:
        """Return what silences hold of a row, read once: all notifications of a key are of one."""
        assert self._ledger is not None  # as above
        if fingerprint not in self._held:
            self._held[fingerprint] = await self._ledger.held_of(fingerprint)
        return self._held[fingerprint]

    async def _line(self, channel: str, ordering_key: str) -> Line:
        """Return what is pending of an ordering key: the notifications of an episode have few of them."""
        assert self._ledger is not None  # a channel with notifications has one
        key = channel, ordering_key
        if key not in self._lines:
            self._lines[key] = await self._ledger.line(*key)
        return self._lines[key]

    async def _request(self, record: Record, line: Line | None) -> dict[str, Any] | str:
        """Return the request of a notification as its channel shows it, or why there is none."""
        together = [record]
        if record.digest is not None:
            together = [one for one in (line.first if line else ()) if one.digest == record.digest]
            if not together:
                return "it was merged into a message with others, which is not kept"
        channel, alert = self._config.channels.get(record.channel), self._config.alerts.get(record.alert)
        if channel is None or alert is None:
            what = f"channel {record.channel}" if channel is None else f"alert {record.alert}"
            return f"the {what} is not configured"
        output = await self._around.output(record.channel)
        if isinstance(output, str):
            return output
        assert self._ledger is not None
        compose = build.composer(channel, {alert.name: build.view(alert)}, lambda: self._now)
        # A digest may have hundreds.
        message = await asyncio.to_thread(compose, [one.notification for one in together])
        # A level output has no such kinds.
        if isinstance(message, Message) and message.kind in getattr(output, "needs_previous_ids", ()):
            ids = [id_ for one in together for id_ in await self._ledger.previous_ids(one.notification)]
            message = replace(message, previous_ids=tuple(ids))
        return await previewed(output, message)


async def previewed(output: Output, message: Message | Rejected) -> dict[str, Any] | str:
    """Return the preview of a message, or why there is none."""
    try:
        shown = message if isinstance(message, Rejected) else await asyncio.to_thread(output.preview, message)
    except Exception as error:  # noqa: BLE001 - a channel may be foreign code
        return f"the channel cannot show it: {unexpected(error)}"
    return f"{shown.reason}: {shown.detail}" if isinstance(shown, Rejected) else dict(shown)
