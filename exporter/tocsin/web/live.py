"""What the page shows, as a stream of changes.

The state is cut into parts with a version each: `alert:NAME`, `channel:NAME`, `rows:NAME` (a number that rises when its
rows change), `health`, ... A reader is sent the parts that are newer than what it has. So one that reads slowly misses
what came in between, and nothing has to be kept for it: while its connection is full, nothing is made for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import structlog

from tocsin.errors import LedgerError
from tocsin.firing import Firing, Phase
from tocsin.model import Transition
from tocsin.repeats import Repeats
from tocsin.web import views
from tocsin.web.base import Process
from tocsin.web.timeline import SLOTS, STEP, Timelines

log = structlog.get_logger(__name__)

_FAILED = Repeats(log, "the state for the page could not be read", level="error")
_RESTORED = 50_000
"""Ended firings that are read from the ledger at the start."""
_SHORTEST, _LONGEST = 0.25, 1.0
"""Seconds between two comparisons of the state."""
_SHOWN = 40
"""Transitions that a reader is sent at once; of more it gets the latest."""
_BEAT = 10.0
"""Seconds without a change after which a reader is sent the time, to know that the connection works."""


class Live:
    """The parts of the state, and the timelines. `run` keeps them up to date while it runs."""

    def __init__(self, process: Process, *, clock: Callable[[], float]) -> None:
        self.timelines = Timelines(clock())
        self.readers = 0
        self._process = process
        self._clock = clock
        self._version = 0
        self._parts: dict[str, tuple[int, str]] = {}
        """By name: the version that changed it, and its JSON."""
        self._news = asyncio.Event()
        """Set, and replaced, with each version."""
        self._soon = asyncio.Event()
        """Set when transitions came."""
        self._closed = False
        self._ended: dict[str, list[tuple[float, float]]] | None = None
        """The spans that the ledger has of the time before the start, by alert."""
        process.feed.observers.append(self._observe)

    async def run(self) -> None:
        """Take samples, and compare the state while there are readers, until cancelled."""
        while True:
            try:
                self._compare()
                await self._restore()
            except Exception:  # noqa: BLE001 - a defect here must not end what the page follows
                _FAILED.add(exc_info=True)
            await asyncio.sleep(_SHORTEST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST - _SHORTEST):
                    await self._soon.wait()
            self._soon.clear()

    async def follow(self, *, first: dict[str, Any], beat: float = _BEAT) -> AsyncGenerator[str, None]:
        """Yield JSON: first everything, with what is in `first`, then what changed since the message before, and only
        the time after each `beat` seconds without a change. Ends when this is closed."""
        self.readers += 1
        try:
            self._compare()
            seen, sent = 0, max(0, self._process.feed.published - _SHOWN)
            while not self._closed:
                version, published = self._version, self._process.feed.published
                parts = {name: text for name, (changed, text) in self._parts.items() if changed > seen}
                latest = self._process.feed.since(sent)[-_SHOWN:]
                yield self._message(first, parts, latest)
                first, seen, sent = {}, version, published
                news = self._news
                if self._version == seen and not self._closed:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(beat):
                            await news.wait()
        finally:
            self.readers -= 1

    def close(self) -> None:
        """End every reader, also those that come later."""
        self._closed = True
        self._announce()

    def _message(self, first: dict[str, Any], parts: dict[str, str], latest: Sequence[Transition]) -> str:
        shown = [views.transition(one, self._process.alert(one.alert)) for one in latest]
        fields = {
            **{name: views.text(value) for name, value in first.items()},
            "time": views.text(views.wall_time(self._clock())),
            "parts": "{" + ",".join(f"{views.text(name)}:{text}" for name, text in parts.items()) + "}",
            "transitions": views.text(shown),
        }
        return "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"

    def _observe(self, transitions: Sequence[Transition]) -> None:
        self.timelines.changed(self._clock(), transitions)
        self._soon.set()

    def _compare(self) -> None:
        process = self._process
        alerts, channels = process.alerts(), process.channels()
        self.timelines.sample(self._clock(), alerts, channels, process.delays())
        if not self.readers:
            return
        reasons = list(process.ready())
        parts: dict[str, Any] = {
            "health": {
                "ready": not reasons,
                "reasons": reasons,
                "warnings": list(process.warnings()),
                "refused": list(process.refused()),
            },
            "alerts": [alert["name"] for alert in alerts],
            "channels": [channel["name"] for channel in channels],
            "instances": process.instances(),
            "silences": self._silences(),
            "timeline": self.timelines.slot * STEP,
            "transitions": process.feed.published,
            **{f"alert:{alert['name']}": _without_clock(alert) for alert in alerts},
            **{f"channel:{channel['name']}": channel for channel in channels},
            **{f"rows:{name}": revision for name, revision in process.revisions().items()},
        }
        texts = {name: views.text(value) for name, value in parts.items()}
        changed = [name for name, text in texts.items() if self._parts.get(name, (0, ""))[1] != text]
        if changed or self._parts.keys() - texts.keys():
            self._version += 1
            kept = {name: self._parts[name] for name in texts if name in self._parts}
            self._parts = {**kept, **{name: (self._version, texts[name]) for name in changed}}
            self._announce()

    async def _restore(self) -> None:
        """Fill the timelines before the start, of alerts whose rows are known now."""
        lacking = set(self.timelines.lacking())
        known = [alert["name"] for alert in self._process.alerts() if alert["state"] in ("up", "refusing")]
        todo = [name for name in known if name in lacking]
        if not todo:
            return
        ledger, began = self._process.ledger, self.timelines.began
        if self._ended is None:
            ended = []
            if ledger is not None:
                with contextlib.suppress(LedgerError):  # it shows as down, and a chart lacks a part
                    ended = await ledger.ended(round((began - STEP * SLOTS) * 1000), _RESTORED)
            self._ended = {}
            for name, start, end in ended:
                self._ended.setdefault(name, []).append((start / 1000, end / 1000))
        for name in todo:
            rows, spans = self._process.rows(name), self._ended.pop(name, [])
            try:
                spans += [(one.started_at / 1000, began) for one in (rows.firings if rows else ()) if _fires(one)]
            except RuntimeError:  # a thread applies a large batch
                self._ended[name] = spans
                continue
            self.timelines.restore(name, spans)

    def _silences(self) -> list[list[str]]:
        """The silences that have not been closed: id, and state now."""
        ledger = self._process.ledger
        return [[one.id, one.state(ledger.now()).value] for one in ledger.silences.all] if ledger else []

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _fires(firing: Firing) -> bool:
    return firing.phase in (Phase.FIRING, Phase.KEEPING)


def _without_clock(alert: dict[str, Any]) -> dict[str, Any]:
    """Leave out what goes on with the clock while all is well: it would be news every second."""
    fine = alert["state"] == "up" and alert["events"] is None
    return {**alert, "frontier": None, "last_progress": None} if fine else alert
