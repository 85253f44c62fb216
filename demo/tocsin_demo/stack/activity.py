"""From the notifications in Tocsin's ledger to lines. The ledger also has what happened while Tocsin was killed."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

PATIENCE = 3.0
"""Seconds that a line waits until its notifications arrive or fail, so that it can name their recipients."""

_PAGE = 50
_MOST = 1000
_NUMBERS = ("deployment_cnt", "price")  # the `value` of each alert in tocsin.yaml

Get: TypeAlias = Callable[[str], Awaitable[Any]]
Recipients: TypeAlias = Callable[[str, str], Sequence[str]]
Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A row that fired, changed or resolved. `at`: epoch seconds; `value` and `previous`: its number; `recipients`: who
    has the message; `pending`: channels that have not delivered yet, with the reason."""

    at: float
    kind: str
    alert: str
    labels: tuple[tuple[str, str], ...]
    value: str
    previous: str
    recipients: tuple[str, ...]
    pending: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Notifications of one channel that had to wait, and are delivered now, or dead letters. `seconds`: how long the
    oldest waited; `reason`: of a dead letter."""

    channel: str
    count: int
    seconds: float
    recipients: tuple[str, ...]
    reason: str = ""


@dataclass(slots=True)
class _New:
    """The notifications of a transition that has no line yet, by id. `since`: when it was first seen."""

    since: float
    records: dict[str, Record] = field(default_factory=dict)


class Activity:
    """Follows the notifications of a Tocsin.

    Args:
        get: the answer of a path under `/api/v1/`.
        recipients: who has got a notification, given its id and channel; empty while it is on its way.
    """

    def __init__(self, get: Get, recipients: Recipients) -> None:
        self._get = get
        self._recipients = recipients
        self._latest = 0
        self._new: dict[tuple[Any, ...], _New] = {}
        self._pending: set[str] = set()

    async def poll(self, now: float) -> list[Transition | Settled]:
        """The lines since the last poll, in order. An error of `get` is passed on, and nothing is lost."""
        await self._read(now)
        lines: list[Transition | Settled] = []
        for key, new in list(self._new.items()):
            if now - new.since < PATIENCE and not self._settled(new):
                break  # lines keep their order
            records = list(new.records.values())
            trouble = {} if self._settled(new) else await self._trouble()
            del self._new[key]
            lines.append(self._transition(records, trouble))
        return lines + await self._late(now)

    async def _read(self, now: float) -> None:
        """Read new notifications, and again those whose line waits for them."""
        wanted = min((r["seq"] for new in self._new.values() for r in new.records.values()), default=self._latest + 1)
        records: list[Record] = []
        before = wanted + 1
        path = f"notifications?limit={_PAGE}"
        while before is not None and before > wanted:
            page = await self._get(f"{path}&before={before}" if records else path)
            records += page["notifications"]
            before = page["before"]
        for record in sorted(records, key=lambda record: record["seq"]):
            key = (record["alert"], record["fingerprint"], record["at"], record["kind"])
            if record["seq"] > self._latest:
                self._new.setdefault(key, _New(now))
                self._latest = record["seq"]
            if key in self._new:
                self._new[key].records[record["id"]] = record

    def _settled(self, new: _New) -> bool:
        """Whether each notification has arrived, or an attempt has failed."""
        return all(
            self._recipients(record["id"], record["channel"]) if record["status"] == "delivered" else record["reason"]
            for record in new.records.values()
        )

    async def _trouble(self) -> dict[str, str]:
        """The reason of each channel that does not deliver: it is the reason why a notification was not tried yet."""
        channels = (await self._get("channels"))["channels"]
        return {channel["name"]: channel["message"].partition(":")[0] for channel in channels}

    def _transition(self, records: Sequence[Record], trouble: dict[str, str]) -> Transition:
        first = records[0]
        recipients: list[str] = []
        pending: list[tuple[str, str]] = []
        for record in records:
            if record["status"] == "delivered":
                recipients += self._recipients(record["id"], record["channel"]) or [record["channel"]]
            else:
                self._pending.add(record["id"])
                reason = record["reason"] or trouble.get(record["channel"], "")
                pending.append((record["channel"], reason.replace("_", " ")))
        return Transition(
            at=_epoch(first["at"]),
            kind=first["kind"],
            alert=first["alert"],
            labels=tuple(first["labels"].items()),
            value=_number(first["row"]),
            previous=_number(first["previous"] or {}),
            recipients=tuple(recipients),
            pending=tuple(pending),
        )

    async def _late(self, now: float) -> list[Transition | Settled]:
        """Notifications that had to wait and are settled now."""
        if not self._pending:
            return []
        page = await self._get(f"notifications?status=pending&limit={_MOST}")
        settled: dict[tuple[str, str], list[Record]] = {}
        for id_ in self._pending - {record["id"] for record in page["notifications"]}:
            record = await self._get(f"notifications/{id_}")
            if record["status"] != "pending":
                self._pending.discard(id_)
                settled.setdefault((record["channel"], record["status"]), []).append(record)
        return [self._settlement(records, now) for _, records in sorted(settled.items())]

    def _settlement(self, records: Sequence[Record], now: float) -> Settled:
        first = records[0]
        recipients = dict.fromkeys(one for each in records for one in self._recipients(each["id"], each["channel"]))
        return Settled(
            channel=first["channel"],
            count=len(records),
            seconds=now - min(_epoch(record["created_at"]) for record in records),
            recipients=tuple(recipients),
            reason="" if first["status"] == "delivered" else first["detail"] or first["reason"],
        )


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _number(row: Record) -> str:
    """The value of a row of the demo's views; empty for other alerts."""
    return next((str(row[column]) for column in _NUMBERS if column in row), "")
