"""Playing a recorded client against the double, with the stage directions that the recording implies.

The client's messages are sent byte for byte (only the key of a cancel request is the live one). What the real server
told at a point is made to happen in the double at that point: rows change, the clock moves on, a view breaks.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

from support.materialize import protocol
from support.materialize.catalog import Relation
from support.materialize.history import END_OF_TIME, Row
from support.materialize.recordings import Event, Told, told
from support.materialize.server import MaterializeDouble

_RELATION = re.compile(rb"SUBSCRIBE ([a-z_.]+)")

Change = tuple[int, list[tuple[int, Row]]]
"""A timestamp and what changed at it."""


@dataclass(slots=True)
class StageClock:
    """Source time that only the stage directions move."""

    now: int

    def __call__(self) -> int:
        return self.now


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a recording says about the relation it is about.

    Attributes:
        relation: its name.
        as_of: timestamp of the first progress row, ``None`` where no stream began.
        snapshot: the rows at the as-of.
        changes: what came after, by timestamp.
        frontier: the first progress after the as-of, ``None`` where there was none.
        width: how many columns it has.
    """

    relation: str
    as_of: int | None
    snapshot: list[tuple[int, Row]]
    changes: list[Change]
    frontier: int | None
    width: int


def script(events: Sequence[Event]) -> Script:
    """Read the stage directions out of a recording."""
    named = next((m for event in events if event.client and (m := _RELATION.search(event.body))), None)
    rows = [row for event in events if (row := told(event)) is not None]
    as_of = rows[0].timestamp if rows else None
    data = [row for row in rows if not row.progress]
    later = [row for row in data if row.timestamp != as_of]
    return Script(
        relation="" if named is None else named[1].decode(),
        as_of=as_of,
        snapshot=[(row.diff or 0, row.row) for row in data if row.timestamp == as_of],
        changes=[
            (at, [(row.diff or 0, row.row) for row in group])
            for at, group in groupby(later, key=lambda row: row.timestamp)
        ],
        width=len(rows[0].row) if rows else 1,
        frontier=next((row.timestamp for row in rows if row.progress and row.timestamp > (as_of or 0)), None),
    )


@dataclass(slots=True)
class Stage:
    """The double, set up for one recording."""

    double: MaterializeDouble
    clock: StageClock
    script: Script
    relation: Relation | None = None
    changes: list[Change] = field(default_factory=list)

    def the_relation(self) -> Relation:
        assert self.relation is not None, "the scenario has no relation"
        return self.relation

    def apply(self, change: Change) -> None:
        """Let rows change at their recorded timestamp."""
        at, rows = change
        self.clock.now = max(self.clock.now, at)
        self.the_relation().change(rows, at=at)

    def reach(self, timestamp: int) -> None:
        """Move the clock, and with it the write frontiers."""
        self.clock.now = max(self.clock.now, timestamp)
        self.double.tick()


Direction = Callable[[Stage], None]


@dataclass(slots=True)
class Wire:
    """The client's end of one connection, and what arrived there."""

    conn: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: list[Event] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind = (await self.reader.readexactly(1)).decode()
                length = int.from_bytes(await self.reader.readexactly(4), "big")
                self._add(kind, await self.reader.readexactly(length - 4))
        self._add("eof", b"")

    def _add(self, kind: str, body: bytes) -> None:
        self.received.append(Event(conn=self.conn, client=False, kind=kind, body=body))
        self.arrived.set()

    async def until(self, condition: Callable[[list[Event]], bool], what: str) -> None:
        """Wait until what arrived fulfils a condition.

        Raises:
            AssertionError: it did not within some seconds.
        """
        try:
            async with asyncio.timeout(5):
                while not condition(self.received):
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError:
            tail = "\n".join(f"{event.kind} {event.body!r}" for event in self.received[-5:])
            raise AssertionError(f"waited for {what}; the last messages were\n{tail}") from None


@dataclass(slots=True)
class Player:
    """Plays the client of a recording, and moves the stage along.

    Attributes:
        at_failure: what makes the recorded error happen, where it is no answer to what the client sent.
        at_notice: what makes a recorded notice happen that comes in the middle of a stream.
        left: the client has said goodbye. A server that closes before that was killed.
    """

    stage: Stage
    at_failure: Direction | None = None
    at_notice: Direction | None = None
    wires: dict[int, Wire] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    left: bool = False

    async def play(self, events: Sequence[Event]) -> list[Event]:
        """Play to the end, and return what the server said on the first connection."""
        counts: dict[tuple[int, str], int] = {}
        try:
            for place, event in enumerate(events):
                row = None if event.client else told(event)
                if event.client:
                    await self._speak(event)
                elif row is not None:
                    await self._follow(self.wires[event.conn], row, _run_end(events, place))
                else:
                    key = (event.conn, event.kind)
                    counts[key] = counts.get(key, 0) + 1
                    await self._expect(event, counts[key])
            return list(self.wires[1].received)
        finally:
            for task in self.tasks:
                task.cancel()
            for wire in self.wires.values():
                wire.writer.close()

    async def _speak(self, event: Event) -> None:
        if event.kind == "startup":
            reader, writer = await asyncio.open_connection("127.0.0.1", self.stage.double.port)
            wire = self.wires[event.conn] = Wire(event.conn, reader, writer)
            self.tasks.append(asyncio.create_task(wire.listen()))
            body = self._with_live_key(event.body)
            writer.write((len(body) + 4).to_bytes(4, "big") + body)
        elif event.kind == "eof":
            self.wires[event.conn].writer.close()
        else:
            self.left = self.left or event.kind == "X"
            self.wires[event.conn].writer.write(protocol.message(event.kind.encode(), event.body))

    def _with_live_key(self, body: bytes) -> bytes:
        if int.from_bytes(body[:4], "big") != protocol.CANCEL_REQUEST:
            return body
        return body[:4] + next(event.body for event in self.wires[1].received if event.kind == "K")

    async def _follow(self, wire: Wire, row: Told, run_end: int) -> None:
        if not row.progress:
            self._change_at(row.timestamp)
            return
        if row.timestamp != self.stage.script.as_of and row.timestamp != END_OF_TIME:
            self.stage.reach(run_end)
        await wire.until(lambda got: _frontier(got) >= row.timestamp, f"progress {row.timestamp}")

    def _change_at(self, timestamp: int) -> None:
        """Make a recorded change happen, unless it was made before the client came."""
        if self.stage.changes and self.stage.changes[0][0] == timestamp:
            if self.stage.relation is not None and self.at_notice is None:
                self.stage.relation.silent = False
            self.stage.apply(self.stage.changes.pop(0))

    async def _expect(self, event: Event, count: int) -> None:
        if event.kind == "T":
            return  # it travels with the rows after it, which may have yet to happen
        wire = self.wires[event.conn]
        if event.kind == "E" and b"57014" not in event.body and self.at_failure is not None:
            self.at_failure(self.stage)
        if event.kind == "N" and b"changed status" in event.body and self.at_notice is not None:
            self.at_notice(self.stage)
        if event.kind == "eof" and event.conn == 1 and not self.left:
            await self.stage.double.kill()
        await wire.until(
            lambda got: sum(1 for other in got if other.kind == event.kind) >= count, f"{event.kind} {event.body!r}"
        )


def _run_end(events: Sequence[Event], place: int) -> int:
    """The last timestamp of the run of progress rows that is under way. A FETCH returns once, with the whole run."""
    last = -1
    for event in events[place:]:
        row = told(event)
        if row is None or not row.progress:
            break
        last = row.timestamp
    return last


def _frontier(received: Sequence[Event]) -> int:
    """The greatest progress that arrived."""
    return max((row.timestamp for event in received if (row := told(event)) and row.progress), default=-1)
