"""A pipeline of events for tests: with a ledger that cannot be written for a while, and alerts on the events."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tocsin.app.build import router
from tocsin.backoff import Backoff
from tocsin.config.loading import load
from tocsin.errors import LedgerError, LedgerReason
from tocsin.exposition import Metrics
from tocsin.ledger.base import EventCommit
from tocsin.ledger.sqlite import SqliteLedger
from tocsin.model import Notification
from tocsin.pipeline.events import EventOutputs, EventPipeline, EventRoute
from tocsin.sources.base import EventSource

CONFIG = """
sources: {q: {type: rabbitmq, host: localhost, user: u, password: p, queue: q}}
channels: {people: {type: console}}
alerts: {order: {source: q, event: EVENT, notify: [people]}}
"""


class Locked:
    """A ledger that cannot be written for a number of times, in front of a real one."""

    def __init__(self, ledger: SqliteLedger, times: int) -> None:
        self.times = times
        self.tries = 0
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def commit_events(self, commit: EventCommit) -> Any:
        self.tries += 1
        if self.times:
            self.times -= 1
            raise LedgerError("the ledger is locked", LedgerReason.LOCKED)
        return await self._ledger.commit_events(commit)


class Offered:
    """The notifications that were offered to the channels, of events that are committed."""

    def __init__(self) -> None:
        self.notifications: list[Notification] = []

    def __call__(self, notifications: Sequence[Notification]) -> None:
        self.notifications += notifications

    def values(self, column: str) -> list[str | None]:
        """This column of each event, in the order of the offers."""
        found = []
        for one in self.notifications:
            names = [each.name for each in one.transition.columns]
            found.append(one.transition.row[names.index(column)])
        return found


def intake_of_orders(
    folder: Path,
    source: EventSource,
    ledger: Any,
    offered: Offered,
    metrics: Metrics | None = None,
    *,
    event: str = "order",
    **more: Any,
) -> EventPipeline:
    """A pipeline whose events of a name go to one channel. Its pauses last some milliseconds."""
    file = folder / "tocsin.yaml"
    file.write_text(CONFIG.replace("EVENT", event))
    config = load(file, {})
    metrics = metrics or Metrics("0")
    alert = config.event_alerts["order"]
    own = metrics.alert("order")
    taker = EventRoute(alert=alert, router=router(config, alert, own), metrics=own)
    outlets = EventOutputs(ledger=ledger, metrics=metrics.source("q"), offer=offered, publish=lambda _: None)
    return EventPipeline("q", source, [taker], Backoff(initial=0.01, maximum=0.05), outlets, **more)
