"""The double of Materialize streams like the recorded servers."""

import asyncio
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from support.live import settings
from support.materialize import RELEASES, MaterializeDouble, Relation
from support.materialize.protocol import Row
from support.materialize.relation import END_OF_TIME
from support.materialize_recordings import FOLDERS, Recording, change, error_fields, load
from support.waiting import SOON
from tocsin.sources.wire import connect

HOUR = 3_600_000
NAMES = [(release, path.stem) for release in RELEASES for path in sorted(FOLDERS[release].glob("*.jsonl"))]
OTHERS = {
    *("catalog_renames", "catalog_subscribe"),
    *("describe_by_prepare", "login_password", "login_password_refused", "login_sasl", "login_sasl_refused"),
    *("resume_as_of_too_old", "too_many_connections"),
}
"""Recordings that are not replayed as a stream (see recordings/README.md)."""
CANCELLED = b"57014"
"""The recorded client cancelled its statement: the end of what there is to compare."""


def comparable(sent: Iterable[bytes]) -> list[bytes]:
    """Lines with the rows between two progress rows in one order."""
    ordered: list[bytes] = []
    for is_progress, group in groupby(sent, key=lambda line: change(line)[1] is None):
        lines = list(group)
        ordered += lines if is_progress else sorted(lines)
    return ordered


@dataclass(slots=True)
class Replay:
    """The double in the state of the recorded server. `as_of`: the timestamp of the recorded first progress row."""

    double: MaterializeDouble
    relation: Relation
    as_of: int
    pending: list[tuple[int, int, Row]] = field(default_factory=list)

    def reach(self, upper: int) -> None:
        """Let the pending changes happen, and move the write frontier."""
        for at, group in groupby(self.pending, key=lambda one: one[0]):
            self.relation.change([(diff, row) for _, diff, row in group], at=at)
        self.pending.clear()
        self.relation.advance(upper)


Direction = Callable[[Replay], object]


def nothing(_: Replay) -> None: ...


def failed(lower: int, start: int, end: int) -> Direction:
    """A row error came and went. `lower`: the write frontier before it."""

    def direct(replay: Replay) -> None:
        replay.reach(lower)
        replay.relation.fail("division by zero", at=start)
        replay.relation.heal(at=end)

    return direct


def swap_and_drop(replay: Replay) -> None:
    replay.double.create("g_rec_green.v", [("k", "text")])
    replay.double.swap_schemas("g_rec_blue", "g_rec_green")
    replay.double.drop(replay.relation)


BEFORE: dict[str, Direction] = {
    "constant_materialized_view": lambda replay: replay.relation.freeze(replay.as_of),
    "constant_view": lambda replay: replay.relation.freeze(),
    "no_replica_at_start": lambda replay: replay.double.scale(next(iter(replay.double.clusters)), 0),
    "permission_denied": lambda replay: replay.relation.denied.update(("bridge", "g_bridge")),
    "row_error_fresh_after v26.8": failed(1795242607700, 1795242607700, 1795242607720),
    "row_error_fresh_after v26.39": failed(1795991135300, 1795991135300, 1795991135320),
    "row_error_resume_across v26.39": failed(1795991126966, 1795991126967, 1795991130000),
    "types_text": lambda replay: replay.relation.freeze(),
    "unknown_cluster": lambda replay: replay.double.clusters.pop("nonesuch"),
    "view_missing": lambda replay: replay.double.drop(replay.relation),
}
"""What had happened when the client came."""

AT_FAILURE: dict[str, Direction] = {
    "cluster_dropped": lambda replay: replay.double.drop_cluster([*replay.double.clusters][-1]),
    "fell_behind": lambda replay: replay.double.fall_behind(replay.relation),
    "row_error": lambda replay: replay.relation.fail("division by zero"),
    "schema_swapped": swap_and_drop,
    "view_dropped": lambda replay: replay.double.drop(replay.relation),
    "view_replaced": lambda replay: replay.double.replace(replay.relation, [("c", "text")]),
}
"""What ends the stream with an error."""


def direct(scenes: dict[str, Direction], replay: Replay, release: str, name: str) -> None:
    for title in (name, f"{name} {release}"):
        scenes.get(title, nothing)(replay)


def prepared(recording: Recording, release: str, name: str) -> Replay:
    """A double in the state that the recorded server was in when the client came."""
    changes = recording.changes
    as_of = changes[0][0] if changes else 0
    time = as_of if 0 < as_of < END_OF_TIME else HOUR
    cluster = recording.startup.get("options", "--cluster=quickstart").removeprefix("--cluster=")
    double = MaterializeDouble(clock=lambda: time - HOUR, progress_interval=3600, clusters=[cluster], release=release)
    columns = [(f"c{at}", "text") for at in range(len(changes[0][2]) if changes else 1)]
    asked = re.search(r"SUBSCRIBE ([a-z_.]+)", recording.statement)
    assert asked is not None
    relation = double.create(asked[1], columns, retain=None)
    first = [(diff, row) for at, diff, row in changes if at == as_of and diff is not None]
    relation.change(first, at=time - HOUR + 1)
    replay = Replay(double, relation, as_of)
    direct(BEFORE, replay, release, name)
    replay.reach(time + 1)
    if changes:
        relation.compact(time)
    relation.silent = any(at > as_of for at, *_ in changes)  # until the recorded server has something to say
    return replay


async def received(replay: Replay, recording: Recording, at_failure: Callable[[], None]) -> tuple[list[bytes], object]:
    """Send the recorded statement, let happen what the recorded server reported, and return the lines that the double
    sent, and the fields of its error."""
    user, cluster = recording.startup["user"], [*replay.double.clusters, "nonesuch"][0]
    config = settings(replay.double.dsn.replace("materialize@", f"{user}@"), cluster=cluster)
    lines: list[bytes] = []
    async with connect(config) as wire:
        chunks = wire.copy(sql.SQL(recording.statement), limit=5)

        async def read(count: int) -> object:
            """Read until there are so many lines, for a while, so that those that came can be compared."""
            try:
                async with asyncio.timeout(SOON):
                    while len(lines) < count:
                        lines.extend(await anext(chunks))
            except psycopg.Error as error:
                return error.sqlstate, error.diag.message_primary, error.diag.message_detail, error.diag.message_hint
            except (TimeoutError, StopAsyncIteration) as end:
                return type(end)
            return None

        async with aclosing(cast("Any", chunks)):
            expected = 0
            for kind, body in recording.answers:
                if kind == "E" and CANCELLED not in body:
                    at_failure()
                    return lines, await read(expected + 1)
                if kind != "d":
                    continue
                expected += 1
                at, diff, row = change(body)
                if diff is not None:  # arrives with the progress row after it
                    replay.pending += [(at, diff, row)] if at > replay.as_of else []
                    continue
                if at > replay.as_of:
                    replay.reach(at)
                    replay.double.resume(replay.relation)
                await read(expected)
            return lines, await read(expected + 1) if ("c", b"") in recording.answers else None


@pytest.mark.parametrize(("release", "name"), [each for each in NAMES if each[1] not in OTHERS])
async def test_double_streams_like_recorded_server(release: str, name: str) -> None:
    """Line for line, but for the order of rows between two progress rows."""
    recording = load(release, name)
    replay = prepared(recording, release, name)
    async with replay.double:
        lines, end = await received(replay, recording, lambda: direct(AT_FAILURE, replay, release, name))
    assert comparable(lines) == comparable(body for kind, body in recording.answers if kind == "d")
    failures = [error_fields(body) for kind, body in recording.answers if kind == "E" and CANCELLED not in body]
    assert end == (failures[0] if failures else StopAsyncIteration if ("c", b"") in recording.answers else None)


def test_double_needs_only_the_standard_library() -> None:
    """It also runs in a container of `make rehearse`."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); import support.definitions"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


@given(
    plan=st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(-2, 3), min_size=3, max_size=3)), max_size=12),
    start=st.integers(1, 80),
)
def test_content_and_later_updates_agree(plan: list[tuple[int, list[int]]], start: int) -> None:
    """From whatever time a relation is read. `plan`: for each step its milliseconds, and a diff for each row."""
    relation = MaterializeDouble(clock=lambda: 0).create("v", [("k", "text")], retain=None)
    for wait, diffs in plan:
        held = Counter(relation.rows())
        pairs = [(max(diff, -held[(row,)]), (row,)) for diff, row in zip(diffs, "abc", strict=True)]
        relation.change(pairs, at=relation.upper + wait)
    state = Counter(relation.content(start))
    for _, diff, row in relation.between(start, relation.upper):
        state[row] += diff
    assert +state == Counter(relation.rows())
