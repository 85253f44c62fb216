"""A stand-in for the running process behind the web server: a test sets what it is to say."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence

from tocsin.errors import LedgerError
from tocsin.ledger.base import Attempt, Status
from tocsin.web import (
    AlertStatus,
    ChannelStatus,
    EpisodeRecord,
    FiringRow,
    NotificationRecord,
    Receipt,
    TransitionRecord,
)


class FakeOverview:
    """Answers from plain lists. `fault` makes everything that needs the ledger raise it; `readers` counts open
    streams, `reading` requests whose body is being read."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.notes: list[str] = []
        self.alert_list: list[AlertStatus] = []
        self.channel_list: list[ChannelStatus] = []
        self.rows: list[FiringRow] = []
        self.records: list[NotificationRecord] = []
        self.recent: list[TransitionRecord] = []
        self.problems: list[str] = []
        self.failed: dict[str, list[Attempt]] = {}
        self.history: list[EpisodeRecord] = []
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.receipt = Receipt(status=202, events=1)
        self.reading = 0
        self.reloads = 0
        self.readers = 0
        self.fault: LedgerError | None = None
        self.coming: asyncio.Queue[TransitionRecord | None] = asyncio.Queue()

    def ready(self) -> Sequence[str]:
        return self.reasons

    def warnings(self) -> Sequence[str]:
        return self.notes

    def alerts(self) -> Sequence[AlertStatus]:
        return self.alert_list

    def channels(self) -> Sequence[ChannelStatus]:
        return self.channel_list

    def firing(self, alert: str, limit: int) -> Iterable[FiringRow]:
        return [row for row in self.rows if row.alert == alert][:limit]

    async def notifications(
        self, *, status: Status | None, channel: str | None, alert: str | None, limit: int, before: int | None
    ) -> Sequence[NotificationRecord]:
        self._check()
        found = [
            record
            for record in sorted(self.records, key=lambda record: -record.seq)
            if status in {None, record.status}
            and channel in {None, record.channel}
            and alert in {None, record.alert}
            and (before is None or record.seq < before)
        ]
        return found[:limit]

    async def notification(self, id_: str) -> NotificationRecord | None:
        self._check()
        return next((record for record in self.records if record.id == id_), None)

    async def retry(self, ids: Sequence[str]) -> int:
        return self._take(ids, {Status.DEAD, Status.DROPPED})

    async def drop(self, ids: Sequence[str]) -> int:
        return self._take(ids, {Status.DEAD, Status.PENDING})

    async def transitions(self) -> AsyncGenerator[TransitionRecord, None]:
        self.readers += 1
        try:
            for record in list(self.recent):
                yield record
            while (record_or_end := await self.coming.get()) is not None:
                yield record_or_end
        finally:
            self.readers -= 1

    async def attempts(self, id_: str) -> Sequence[Attempt]:
        return self.failed.get(id_, [])

    async def episodes(self, alert: str, limit: int) -> Sequence[EpisodeRecord]:
        self._check()
        return [episode for episode in self.history if episode.alert == alert][:limit]

    async def receive(self, alert: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Receipt:
        if alert != "posted":
            return Receipt(status=404, error=f"no alert {alert!r} takes events over HTTP")
        self.reading += 1
        try:
            read = b"".join([piece async for piece in body]) if self.receipt.status == 202 else b""
        finally:
            self.reading -= 1
        self.received.append((alert, dict(headers), read))
        return self.receipt

    async def reload(self) -> Sequence[str]:
        self.reloads += 1
        return self.problems

    def _take(self, ids: Sequence[str], statuses: set[Status]) -> int:
        self._check()
        taken = [record for record in self.records if record.id in ids and record.status in statuses]
        self.records = [record for record in self.records if record not in taken]
        return len(taken)

    def _check(self) -> None:
        if self.fault:
            raise self.fault
