"""The double of Materialize answers like the recorded servers.

A recording is a file of JSON lines: `conn` (number of the connection), `from` (`client` or `server`), `type` (the
message's type letter, `startup` for a first packet, `eof` where that side closed) and `body` (one character a byte).
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest

from support.materialize import MaterializeDouble, Relation, messages
from support.materialize.errors import too_many_connections
from support.materialize.history import END_OF_TIME, Row
from tocsin.sources.wire import fields

RECORDINGS = Path(__file__).parents[1] / "recordings"
FOLDERS = {"v26.8": RECORDINGS / "materialize", "v26.39": RECORDINGS / "materialize-26.39"}
"""Release -> where its recordings are."""

HOUR = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message, or the end of one side. `conn`: number of its connection."""

    conn: int = 1
    client: bool = False
    kind: str
    body: bytes

    @property
    def line(self) -> tuple[int, int | None, Row] | None:
        """A row of a stream: timestamp, diff (None: a progress row) and row."""
        if self.kind != "d":
            return None
        ((timestamp, progressed, diff, *row),) = fields([self.body])
        return int(timestamp or 0), None if progressed == "t" else int(diff or 0), tuple(row)


def load(path: Path) -> list[Message]:
    """Read a recording."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Message(
            conn=entry["conn"],
            client=entry["from"] == "client",
            kind=entry["type"],
            body=entry["body"].encode("latin-1"),
        )
        for entry in entries
    ]


def comparable(sent: Iterable[Message]) -> list[tuple[str, bytes]]:
    """Messages without what differs between two runs; rows between two progress rows in one order."""
    found: list[tuple[str, bytes]] = []
    for is_change, group in groupby(sent, key=lambda one: one.line is not None and one.line[1] is not None):
        pairs = [(one.kind, _constant(one)) for one in group]
        found += sorted(pairs) if is_change else pairs
    return found


def _constant(message: Message) -> bytes:
    if message.kind == "K":
        return b"<key>"
    body = re.sub(rb"Session UUID: [0-9a-f-]+", b"Session UUID: <uuid>", message.body)
    return re.sub(rb'status to "online" at [^\0]+', b'status to "online" at <time>', body)


@dataclass(slots=True)
class SourceTime:
    """Source time that only a test moves."""

    now: int

    def __call__(self) -> int:
        return self.now


@dataclass(slots=True)
class Replay:
    """The double in the state of the recorded server. `as_of`: the timestamp of the recorded first progress row."""

    double: MaterializeDouble
    relation: Relation
    as_of: int
    clock: SourceTime
    pending: list[tuple[int, int, Row]] = field(default_factory=list)

    def reach(self, timestamp: int) -> None:
        """Let the pending changes happen, and move the clock with the write frontier."""
        for at, group in groupby(self.pending, key=lambda one: one[0]):
            self.relation.change([(diff, row) for _, diff, row in group], at=at)
        self.pending.clear()
        self.clock.now = max(self.clock.now, timestamp)
        self.double.tick()


Direction = Callable[[Replay], object]


def nothing(_: Replay) -> None: ...


def division_by_zero(replay: Replay) -> None:
    replay.relation.fail("division by zero")


def drop(replay: Replay) -> None:
    replay.double.drop(replay.relation)


def replace(replay: Replay) -> None:
    replay.double.replace(replay.relation, [("c", "text")])


def cluster(name: str, replicas: int = 1) -> Direction:
    return lambda replay: replay.double.create_cluster(name, replicas=replicas)


def drop_cluster(name: str) -> Direction:
    return lambda replay: replay.double.drop_cluster(name)


def deny(role: str) -> Direction:
    return lambda replay: replay.relation.denied.add(role)


def constant(replay: Replay) -> None:
    replay.relation.freeze()


def constant_at_its_time(replay: Replay) -> None:
    replay.relation.freeze(replay.as_of)


def password(replay: Replay) -> None:
    replay.double.passwords["g_pw"] = "made-up-1"


def failed(lower: int, start: int, end: int) -> Direction:
    """A row error came and went. `lower`: the write frontier before it."""

    def direct(replay: Replay) -> None:
        replay.reach(lower)
        replay.relation.fail("division by zero", at=start)
        replay.relation.heal(at=end)

    return direct


def forgotten(since: int, object_id: str = "u1") -> Direction:
    """The history before a time is not readable."""

    def direct(replay: Replay) -> None:
        replay.relation.id = object_id
        replay.reach(since + 1)
        replay.double.compact(replay.relation, since)

    return direct


def swap_and_drop(replay: Replay) -> None:
    replay.double.create("g_rec_green.v", [("k", "text"), ("n", "int4")])
    replay.double.swap_schemas("g_rec_blue", "g_rec_green")
    drop(replay)


def fall_behind(replay: Replay) -> None:
    replay.double.fall_behind(replay.relation)


def replica_returns(replay: Replay) -> None:
    (name,) = replay.double.clusters.keys() - {"quickstart"}
    replay.double.scale(name, 0)
    replay.double.scale(name, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Facts that a recording does not contain.

    Attributes:
        before: what had happened when the client came.
        at_failure: what ends the stream with an error.
        at_notice: what is behind a notice in the middle of a stream.
    """

    before: Direction = nothing
    at_failure: Direction = nothing
    at_notice: Direction = nothing


SCENARIOS: dict[str, dict[str, Scenario]] = {
    "v26.8": {
        "as_of_in_the_future": Scenario(),
        "cluster_dropped": Scenario(before=cluster("cc"), at_failure=drop_cluster("cc")),
        "demo_active_alerts": Scenario(before=cluster("alerting")),
        "demo_organization_alert": Scenario(before=cluster("alerting")),
        "describe_by_prepare": Scenario(),
        "fresh_copy": Scenario(),
        "kafka_spike_and_expiry": Scenario(),
        "multiplicity_and_update": Scenario(),
        "no_replica_at_start": Scenario(before=cluster("cc", replicas=0)),
        "permission_denied": Scenario(before=deny("bridge")),
        "replica_lost": Scenario(before=cluster("cc"), at_notice=replica_returns),
        "resume_as_of_too_old": Scenario(before=forgotten(1795242548000)),
        "resume_at_least_immediate": Scenario(),
        "resume_at_least_late": Scenario(),
        "resume_retained": Scenario(),
        "resume_snapshot_at_least_lost": Scenario(),
        "resume_snapshot_at_least_retained": Scenario(),
        "row_error": Scenario(at_failure=division_by_zero),
        "row_error_fresh_after": Scenario(before=failed(1795242607700, 1795242607700, 1795242607720)),
        "row_error_resume_across": Scenario(before=failed(1795242596811, 1795242596900, 1795242600000)),
        "server_killed": Scenario(),
        "temporal_expiry": Scenario(),
        "types_text": Scenario(before=constant),
        "unknown_cluster": Scenario(),
        "view_dropped": Scenario(at_failure=drop),
        "view_missing": Scenario(before=drop),
        "view_replaced": Scenario(at_failure=replace),
    },
    "v26.39": {
        "cluster_dropped": Scenario(before=cluster("g_cc"), at_failure=drop_cluster("g_cc")),
        "constant_materialized_view": Scenario(before=constant_at_its_time),
        "constant_view": Scenario(before=constant),
        "fell_behind": Scenario(at_failure=fall_behind),
        "fresh_copy": Scenario(),
        "login_password": Scenario(before=password),
        "login_password_refused": Scenario(before=password),
        "multiplicity_and_update": Scenario(),
        "no_replica_at_start": Scenario(before=cluster("g_cc", replicas=0)),
        "permission_denied": Scenario(before=deny("g_bridge")),
        "replacement_applied": Scenario(),
        "replica_lost": Scenario(before=cluster("g_cc"), at_notice=replica_returns),
        "resume_as_of_too_old": Scenario(before=forgotten(1795991033000, "u82")),
        "resume_lost": Scenario(),
        "resume_retained": Scenario(),
        "row_error": Scenario(at_failure=division_by_zero),
        "row_error_fresh_after": Scenario(before=failed(1795991135300, 1795991135300, 1795991135320)),
        "row_error_resume_across": Scenario(before=failed(1795991126966, 1795991126967, 1795991130000)),
        "row_error_without_snapshot": Scenario(at_failure=division_by_zero),
        "schema_swapped": Scenario(at_failure=swap_and_drop),
        "types_text": Scenario(before=constant),
        "unknown_cluster": Scenario(),
        "view_dropped": Scenario(at_failure=drop),
        "view_missing": Scenario(before=drop),
        "view_replaced": Scenario(at_failure=replace),
    },
}


def prepared(scenario: Scenario, recorded: Sequence[Message], release: str) -> Replay:
    """A double in the state that the recorded server was in when the client came."""
    lines = [line for message in recorded if (line := message.line) is not None]
    as_of = lines[0][0] if lines else 0
    time = as_of if 0 < as_of < END_OF_TIME else HOUR
    statements = b"".join(message.body for message in recorded if message.client)
    name = re.search(rb"SUBSCRIBE ([a-z_.]+)", statements)
    clock = SourceTime(time - HOUR)
    double = MaterializeDouble(clock=clock, progress_interval=3600, release=release)
    columns = [(f"c{at}", "text") for at in range(len(lines[0][2]))] if lines else [("org", "text"), ("n", "int8")]
    relation = double.create(name[1].decode() if name else "nothing", columns, retain=None)
    relation.change([(diff, row) for at, diff, row in lines if at == as_of and diff is not None], at=clock.now + 1)
    replay = Replay(double, relation, as_of, clock)
    scenario.before(replay)
    replay.reach(time + 1)
    clock.now = time
    if lines:
        double.compact(relation, time)
    if any(at > as_of for at, _, _ in lines):
        double.silence(relation)  # until the recorded server has something to say
    return replay


@dataclass(slots=True)
class Client:
    """The client's end of one connection."""

    writer: asyncio.StreamWriter
    reading: asyncio.Task[None]
    received: list[Message]
    arrived: asyncio.Event

    async def until(self, count: int) -> None:
        """Wait for a number of messages; stop after some seconds, so that those that arrived can be compared."""
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while len(self.received) < count:
                    self.arrived.clear()
                    await self.arrived.wait()


async def connected(port: int) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received: list[Message] = []
    arrived = asyncio.Event()

    async def listen() -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind = (await reader.readexactly(1)).decode()
                length = int.from_bytes(await reader.readexactly(4), "big")
                received.append(Message(kind=kind, body=await reader.readexactly(length - 4)))
                arrived.set()
        received.append(Message(kind="eof", body=b""))
        arrived.set()

    return Client(writer, asyncio.create_task(listen()), received, arrived)


async def replayed(replay: Replay, scenario: Scenario, recorded: Sequence[Message]) -> list[Message]:
    """Send what the recorded client sent, let happen what the recorded server reported, and return what the double sent
    on the first connection."""
    clients: dict[int, Client] = {}
    sent: Counter[int] = Counter()
    try:
        for message in recorded:
            if message.client:
                await spoken(message, clients, replay)
                continue
            sent[message.conn] += 1
            line = message.line
            if line is not None and line[1] is not None:
                if line[0] > replay.as_of:
                    replay.pending.append((line[0], line[1], line[2]))
                continue  # arrives with the progress row after it
            happened(message, replay, scenario)
            await clients[message.conn].until(sent[message.conn])
        return clients[1].received
    finally:
        for client in clients.values():
            client.writer.close()
            client.reading.cancel()


async def spoken(message: Message, clients: dict[int, Client], replay: Replay) -> None:
    """Send a message of the recorded client byte for byte, but for the key of a cancel request."""
    if message.kind == "startup":
        clients[message.conn] = await connected(replay.double.port)
        body = message.body
        if int.from_bytes(body[:4], "big") == messages.CANCEL_REQUEST:
            body = body[:4] + next(one.body for one in clients[1].received if one.kind == "K")
        clients[message.conn].writer.write((len(body) + 4).to_bytes(4, "big") + body)
    elif message.kind == "eof":
        clients[message.conn].writer.close()
    else:
        clients[message.conn].writer.write(messages.message(message.kind.encode(), message.body))


def happened(message: Message, replay: Replay, scenario: Scenario) -> None:
    """Make happen what the recorded server reported."""
    if message.line is not None and message.line[0] > replay.as_of:
        replay.reach(message.line[0])
        replay.double.resume(replay.relation)
    elif message.kind == "E" and b"57014" not in message.body:
        scenario.at_failure(replay)
    elif message.kind == "N" and b"changed status" in message.body:
        scenario.at_notice(replay)
    elif message.kind == "eof" and message.conn == 1:
        replay.double.disconnect()


@pytest.mark.parametrize(("release", "name"), [(release, name) for release in SCENARIOS for name in SCENARIOS[release]])
async def test_double_answers_like_recorded_server(release: str, name: str) -> None:
    """Byte for byte, but for keys, session ids and the order of rows between two progress rows."""
    scenario = SCENARIOS[release][name]
    recorded = load(FOLDERS[release] / f"{name}.jsonl")
    replay = prepared(scenario, recorded, release)

    async with replay.double:
        sent = await replayed(replay, scenario, recorded)

    expected = comparable(message for message in recorded if message.conn == 1 and not message.client)
    assert comparable(sent)[: len(expected)] == expected


@pytest.mark.parametrize("release", FOLDERS)
def test_every_recording_is_replayed(release: str) -> None:
    recorded = {path.stem for path in FOLDERS[release].glob("*.jsonl")} - {"too_many_connections"}
    assert recorded == SCENARIOS[release].keys()


def test_refusal_of_connections_is_as_recorded() -> None:
    """Not replayed: the recorded client closed before it read, and the server had two reserved connections."""
    refusal = load(FOLDERS["v26.39"] / "too_many_connections.jsonl")[-2]
    assert messages.error(too_many_connections(6, 4)) == messages.message(b"E", refusal.body)
