"""From the notifications in Tocsin's ledger to what is worth a line on the screen.

The ledger and not the stream of transitions: what happened while Tocsin was being killed is in it as well, and so is
what has become of each notification.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

PATIENCE = 3.0
"""Seconds that a line waits for its notifications to arrive or fail, so that it can say who has been told."""

_PAGE = 50
_MOST = 1000
_NUMBERS = ("deployment_cnt", "price")  # the `value` of each alert in tocsin.yaml

Get: TypeAlias = Callable[[str], Awaitable[Any]]
Who: TypeAlias = Callable[[str, str], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """A transition. `at`: epoch seconds; `value` and `previous`: the number it is about; `told`: who has got a message;
    `waiting`: channels that have not delivered yet, with the reason."""

    at: float
    kind: str
    alert: str
    labels: tuple[tuple[str, str], ...]
    value: str
    previous: str
    told: tuple[str, ...]
    waiting: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """Notifications of one channel that had to wait and have arrived now. `seconds`: how long the oldest waited;
    `told`: who has got them."""

    channel: str
    count: int
    seconds: float
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """Notifications of one channel that became dead letters."""

    channel: str
    count: int
    reason: str


Line: TypeAlias = Happened | Arrived | GivenUp


@dataclass(slots=True)
class _Transition:
    """One that has no line yet. `since`: when it was first seen here."""

    since: float
    records: dict[str, dict[str, Any]] = field(default_factory=dict)


class Teller:
    """Follows the notifications of a Tocsin.

    Args:
        get: the answer of a path under `/api/v1/`.
        who: the people who have got a notification, given its id and channel; nobody while it is on its way to them.
    """

    def __init__(self, get: Get, who: Who) -> None:
        self._get = get
        self._who = who
        self._latest = 0
        self._untold: dict[tuple[Any, ...], _Transition] = {}
        self._waiting: dict[str, dict[str, Any]] = {}

    async def look(self, now: float) -> list[Line]:
        """What is to be told since the last look, in order. `now`: epoch seconds. What `get` raises is let through, and
        nothing is lost then."""
        await self._take(now)
        lines: list[Line] = []
        for key, transition in list(self._untold.items()):
            if now - transition.since < PATIENCE and not self._settled(transition):
                break  # lines keep their order
            del self._untold[key]
            lines.append(self._line(transition))
        lines += await self._late(now)
        return lines

    async def _take(self, now: float) -> None:
        """Read new notifications, and again those whose line waits for them."""
        records: list[dict[str, Any]] = []
        wanted = min((r["seq"] for t in self._untold.values() for r in t.records.values()), default=self._latest + 1)
        path = f"notifications?limit={_PAGE}"
        before = None
        while True:
            page = await self._get(path if before is None else f"{path}&before={before}")
            records += page["notifications"]
            before = page["before"]
            if before is None or before <= wanted:
                break
        for record in sorted(records, key=lambda record: record["seq"]):
            key = (record["alert"], record["fingerprint"], record["at"], record["kind"])
            if record["seq"] > self._latest:
                self._untold.setdefault(key, _Transition(now))
                self._latest = record["seq"]
            if key in self._untold:
                self._untold[key].records[record["id"]] = record

    def _settled(self, transition: _Transition) -> bool:
        """Whether there is nothing to wait for: each notification has arrived, or an attempt has failed."""
        return all(
            self._who(record["id"], record["channel"]) if record["status"] == "delivered" else record["reason"]
            for record in transition.records.values()
        )

    def _line(self, transition: _Transition) -> Happened:
        records = list(transition.records.values())
        first = records[0]
        told: list[str] = []
        waiting: list[tuple[str, str]] = []
        for record in records:
            if record["status"] == "delivered":
                told += self._who(record["id"], record["channel"]) or [record["channel"]]
            else:
                self._waiting[record["id"]] = record
                waiting.append((record["channel"], record["reason"].replace("_", " ")))
        return Happened(
            at=_epoch(first["at"]),
            kind=first["kind"],
            alert=first["alert"],
            labels=tuple(first["labels"].items()),
            value=_number(first["row"]),
            previous=_number(first["previous"] or {}),
            told=tuple(told),
            waiting=tuple(waiting),
        )

    async def _late(self, now: float) -> list[Line]:
        """What had to wait and has been settled."""
        if not self._waiting:
            return []
        pending = await self._get(f"notifications?status=pending&limit={_MOST}")
        still = {record["id"] for record in pending["notifications"]}
        arrived: dict[str, list[dict[str, Any]]] = {}
        given_up: dict[str, list[dict[str, Any]]] = {}
        for id_ in [id_ for id_ in self._waiting if id_ not in still]:
            record = await self._get(f"notifications/{id_}")
            if record["status"] == "pending":
                continue
            del self._waiting[id_]
            group = arrived if record["status"] == "delivered" else given_up
            group.setdefault(record["channel"], []).append(record)
        lines: list[Line] = []
        for channel, those in arrived.items():
            oldest = min(_epoch(record["created_at"]) for record in those)
            told = dict.fromkeys(who for record in those for who in self._who(record["id"], channel))
            lines.append(Arrived(channel=channel, count=len(those), seconds=now - oldest, told=tuple(told)))
        for channel, those in given_up.items():
            reason = those[0]["detail"] or those[0]["reason"]
            lines.append(GivenUp(channel=channel, count=len(those), reason=reason))
        return lines


def _epoch(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _number(row: dict[str, Any]) -> str:
    """What a row of the demo's views is about; empty for alerts that somebody has added."""
    return next((str(row[column]) for column in _NUMBERS if column in row), "")
