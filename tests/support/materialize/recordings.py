"""Recorded conversations between a client and a real server, and how two of them are compared.

A recording is a file of JSON lines: ``conn`` (number of the connection), ``from`` (``client`` or ``server``), ``type``
(the message's type letter, ``startup`` for a first packet, ``eof`` where that side closed) and ``body`` (one character
a byte).
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.materialize import protocol
from support.materialize.history import Row

_SESSION = re.compile(rb"Session UUID: [0-9a-f-]+")
_REPLICA_TIME = re.compile(rb'changed status to "online" at [^\0]+')
_FETCHED = re.compile(rb"FETCH [1-9]\d*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message, or the end of one side."""

    conn: int
    client: bool
    kind: str
    body: bytes

    @property
    def row(self) -> Row | None:
        """The fields of a row of a stream, ``None`` for any other message."""
        if self.client or self.kind not in ("d", "D"):
            return None
        return protocol.copy_split(self.body) if self.kind == "d" else _data_row(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A row of a subscription with progress. ``diff`` is ``None`` in a progress row."""

    timestamp: int
    diff: int | None
    row: Row

    @property
    def progress(self) -> bool:
        return self.diff is None


def load(path: Path) -> list[Event]:
    """Read a recording."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        events.append(
            Event(
                conn=entry["conn"],
                client=entry["from"] == "client",
                kind=entry["type"],
                body=entry["body"].encode("latin-1"),
            )
        )
    return events


def told(event: Event) -> Told | None:
    """The row of a subscription that a message carries."""
    row = event.row
    if row is None or row[0] is None:
        return None
    diff = None if row[1] == "t" else int(row[2] or 0)
    return Told(timestamp=int(row[0]), diff=diff, row=row[3:])


def normalised(events: Iterable[Event]) -> list[tuple[object, ...]]:
    """What the server said, without what differs between any two runs.

    Source timestamps become their rank among the timestamps kept, so that which are equal and which come first still
    counts. A run of progress rows becomes one, with the last timestamp; the run that opens a stream keeps its first one
    too, which is the as-of. Rows of one timestamp are sorted, since the server promises no order there.
    """
    kept: list[tuple[object, ...]] = []
    run: list[int] = []
    group: list[tuple[object, ...]] = []
    opening = True
    for event in [*(event for event in events if not event.client), None]:
        row = None if event is None else told(event)
        if run and (row is None or not row.progress):
            kept.append(("progress", *sorted({run[0], run[-1]} if opening else {run[-1]})))
            run, opening = [], False
        if group and (row is None or row.progress or row.timestamp != group[0][1]):
            kept += sorted(group, key=repr)
            group = []
        if row is not None and row.progress:
            run.append(row.timestamp)
        elif row is not None:
            group.append(("row", row.timestamp, row.diff, row.row))
        elif event is not None:
            kept.append((event.kind, _constant(event)))
    return _ranked(kept)


def _ranked(kept: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Replace timestamps by their rank."""

    def places(entry: tuple[object, ...]) -> range:
        return range(1, len(entry)) if entry[0] == "progress" else range(1, 2) if entry[0] == "row" else range(0)

    times = sorted({int(str(entry[at])) for entry in kept for at in places(entry)})
    ranks = {time: rank for rank, time in enumerate(times)}
    return [
        tuple(ranks[int(str(part))] if at in places(entry) else part for at, part in enumerate(entry)) for entry in kept
    ]


def _constant(event: Event) -> bytes:
    if event.kind == "K":
        return b"<key>"
    if event.kind == "N":
        body = _SESSION.sub(b"Session UUID: <uuid>", event.body)
        return _REPLICA_TIME.sub(b'changed status to "online" at <time>', body)
    if event.kind == "C":
        return _FETCHED.sub(b"FETCH <n>", event.body)
    return event.body


def _data_row(body: bytes) -> Row:
    fields: list[str | None] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        length = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        fields.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return tuple(fields)
