"""A server on 127.0.0.1 that speaks PostgreSQL's protocol and answers as Materialize does."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Self

from support.materialize import errors, protocol
from support.materialize.protocol import Result, column
from support.materialize.relation import DEFAULT_RETENTION, Cluster, Field, Relation, text_row
from support.materialize.session import DisconnectedError, Name, Session, relation_name
from support.ports import free_port
from support.waiting import until

_HOST = "127.0.0.1"

ColumnSpec = Sequence[tuple[str, str]]
"""Pairs of name and type."""


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class MaterializeDouble:
    """The server. All methods belong to the event loop in which it was started.

    What it holds outlasts the listening socket: `kill` and `start` are a crash and a restart.

    Attributes:
        statements: the text of every statement that clients sent, in order.
        passwords: role -> password. If empty, clients need none.
        answer: answers further statements; None: as the double does itself. May raise ServerError.
        connection_limit: how many connections there may be; more are refused.
        cuts: for each of the next COPY streams, the number of bytes from its CopyOutResponse on after which the
            connection is closed.
        bytes_per_second: speed of every connection; None: no limit.
        deaf: new connections are accepted and never answered.
        ahead: milliseconds that a new subscription starts in the future, as on a server restored from elsewhere.
        release: whose messages it sends.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] = wall_clock,
        progress_interval: float = 1.0,
        clusters: Iterable[str] = ("quickstart",),
        release: str = errors.NEWEST,
    ) -> None:
        """Make a server that does not listen yet.

        Args:
            clock: source time in milliseconds. The write frontiers follow it.
            progress_interval: seconds between two progress rows of a quiet relation.
            release: whose messages it sends, one of `RELEASES`.
        """
        self.now = clock
        self.progress_interval = progress_interval
        self.port = free_port()
        self.relations: dict[Name, Relation] = {}
        self.clusters: dict[str, Cluster] = {}
        self.statements: list[str] = []
        self.passwords: dict[str, str] = {}
        self.answer: Callable[[str], Result | None] = lambda _: None
        self.connection_limit: int | None = None
        self.cuts: deque[int] = deque()
        self.bytes_per_second: float | None = None
        self.deaf = False
        self.ahead = 0
        self.listeners: set[asyncio.Event] = set()
        self.release = release
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        for name in clusters:
            self.create_cluster(name)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def dsn(self) -> str:
        """Where it listens, for role `materialize` and without a password."""
        return f"postgresql://materialize@{_HOST}:{self.port}/materialize?sslmode=disable"

    async def start(self) -> int:
        """Listen, each time at the same port, and return it."""
        assert self._server is None, "it listens already"
        self.tick()
        self._server = await asyncio.start_server(self.accept, _HOST, self.port, limit=1 << 20)
        self._ticker = asyncio.create_task(self._tick())
        return self.port

    async def kill(self) -> None:
        """Stop listening and break every connection, as a killed process does. The rows stay."""
        if self._server is not None and self._ticker is not None:
            self._server.close()
            self._server = None
            self._ticker.cancel()
            await asyncio.wait({self._ticker})
        self.disconnect()
        if self._connections:
            await asyncio.wait(set(self._connections))

    def disconnect(self) -> None:
        """Break every open connection and go on listening."""
        for writer in self._connections.values():
            writer.transport.abort()

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def subscribed(self, relation: Relation) -> None:
        """Wait until a stream of a relation was sent its first row."""
        await until(lambda: any(stream.started for stream in relation.streams), "subscribed")

    async def unsubscribed(self, relation: Relation) -> None:
        """Wait until a relation has no open stream."""
        await until(lambda: not relation.streams, "unsubscribed")

    async def caught_up(self, relation: Relation) -> None:
        """Wait until every open stream of a relation was sent all that is known."""
        await until(lambda: all(stream.caught_up for stream in relation.streams), "caught up")

    def wake(self) -> None:
        """Let every running stream see what has changed."""
        for listener in self.listeners:
            listener.set()

    def tick(self) -> None:
        """Move every write frontier up to the clock now, without waiting for the interval."""
        for relation in self.relations.values():
            relation.advance(self.now())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.progress_interval)
            self.tick()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            await self._serve(reader, writer)
        except (DisconnectedError, OSError, asyncio.IncompleteReadError):
            pass  # the client is gone, or a fault closed the connection
        finally:
            del self._connections[task]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.deaf:
            await reader.read()
            return
        code, body = await _startup(reader)
        while code in protocol.ENCRYPTION_REQUESTS:
            writer.write(b"N")
            code, body = await _startup(reader)
        others = len(self._connections) - 1
        if self.connection_limit is not None and others >= self.connection_limit:
            writer.write(protocol.error(errors.too_many_connections(self.connection_limit, others)))
            return
        words = protocol.strings(body.removesuffix(b"\0"))
        await Session(self, reader, writer, dict(zip(words[::2], words[1::2], strict=True))).run()

    # Relations.

    def create(
        self,
        name: str,
        kinds: ColumnSpec,
        *,
        retain: int | None = DEFAULT_RETENTION,
        rows: Iterable[Sequence[Field]] = (),
    ) -> Relation:
        """Create a relation.

        Args:
            name: as in SQL; the default schema is `public`.
            kinds: pairs of column name and type.
            retain: see `Relation`.
            rows: what it holds from the start.
        """
        full = _full(relation_name(name))
        assert full not in self.relations, f"{name} exists already"
        columns = tuple(column(*each) for each in kinds)
        made = Relation(next(self._numbers), full, columns, retain, clock=self.now, wake=self.wake)
        self.relations[full] = made
        if first := list(rows):
            made.insert(*first)
        return made

    def relation(self, name: str) -> Relation:
        """The relation behind a name as in SQL. Raises KeyError."""
        return self.relations[_full(relation_name(name))]

    def find(self, name: Name, role: str = "") -> Relation:
        """The relation behind the name in a statement. Raises ServerError, also if the role may not read it."""
        found = self.relations.get(_full(name))
        if found is None:
            raise errors.unknown_item(".".join(name))
        if role in found.denied:
            raise errors.permission_denied(role, found.full_name)
        return found

    def drop(self, relation: Relation) -> None:
        """Drop a relation: its streams end with an error."""
        del self.relations[relation.name]
        relation.gone = errors.dropped(self.release, "relation", relation.full_name)
        self.wake()

    def replace(self, relation: Relation, kinds: ColumnSpec) -> Relation:
        """`CREATE OR REPLACE`: another, empty object under the same name."""
        self.drop(relation)
        return self.create(".".join(f'"{part}"' for part in relation.name), kinds, retain=relation.retain)

    def rename(self, relation: Relation, name: str) -> None:
        """Rename a relation. Its streams go on, silently."""
        del self.relations[relation.name]
        relation.name = _full(relation_name(name))
        self.relations[relation.name] = relation

    def swap_schemas(self, one: str, other: str) -> None:
        """`ALTER SCHEMA one SWAP WITH other`. The streams of their relations go on, silently."""
        swapped = {one: other, other: one}
        relations = list(self.relations.values())
        for relation in relations:
            database, schema, name = relation.name
            relation.name = (database, swapped.get(schema, schema), name)
        self.relations = {relation.name: relation for relation in relations}

    def apply_replacement(self, relation: Relation, rows: Iterable[Sequence[Field]]) -> None:
        """`APPLY REPLACEMENT` of a view with these rows: another id. Streams get the difference."""
        relation.id = f"u{next(self._numbers)}"
        wanted, held = Counter(map(text_row, rows)), Counter(relation.rows())
        relation.change([(wanted[row] - held[row], row) for row in wanted | held])

    def fall_behind(self, relation: Relation) -> None:
        """End the running streams of a relation as those of a client that does not read."""
        relation.end_streams(errors.fell_behind())

    def compact(self, relation: Relation) -> int:
        """Forget all history. Returns the oldest readable time."""
        return relation.compact(relation.upper)

    # Clusters.

    def create_cluster(self, name: str, *, replicas: int = 1) -> Cluster:
        self.clusters[name] = Cluster(name, next(self._numbers), replicas)
        return self.clusters[name]

    def cluster(self, name: str) -> Cluster:
        """The cluster of a session. Raises ServerError if there is none."""
        if name not in self.clusters:
            raise errors.unknown_cluster(name)
        return self.clusters[name]

    def scale(self, name: str, replicas: int) -> None:
        """Set the number of replicas. Without any, new statements are refused, and running streams fall silent."""
        cluster = self.clusters[name]
        cluster.replicas, cluster.silent = replicas, replicas == 0
        self.wake()

    def drop_cluster(self, name: str) -> None:
        """Drop a cluster: the streams on it end with an error."""
        self.clusters.pop(name).gone = errors.dropped(self.release, "cluster", name)
        self.wake()

    def swap_clusters(self, one: str, other: str) -> None:
        """`ALTER CLUSTER one SWAP WITH other`. Streams go on where they are, silently."""
        self.clusters[one], self.clusters[other] = self.clusters[other], self.clusters[one]
        self.clusters[one].name, self.clusters[other].name = one, other

    # Faults of both.

    def silence(self, what: Relation | str = "quickstart") -> None:
        """Let a relation, or a cluster by its name, fall silent: no error and no progress.

        A new stream gets its first progress row all the same, and then nothing.
        """
        (what if isinstance(what, Relation) else self.clusters[what]).silent = True

    def resume(self, what: Relation | str = "quickstart") -> None:
        """End a silence. What was missed arrives with its true timestamps."""
        (what if isinstance(what, Relation) else self.clusters[what]).silent = False
        self.wake()


def _full(name: Name) -> Name:
    """A name with its database and schema."""
    return ("materialize", "public")[: 3 - len(name)] + name


async def _startup(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The code of the first packet of a connection, and the rest of it."""
    length = int.from_bytes(await reader.readexactly(4), "big")
    packet = await reader.readexactly(length - 4)
    return int.from_bytes(packet[:4], "big"), packet[4:]
