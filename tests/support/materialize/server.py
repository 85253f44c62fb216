"""The double of Materialize: a server on 127.0.0.1 and the hands that a test lays on it."""

import asyncio
import contextlib
import secrets
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Self

from support.materialize import columns as column_types
from support.materialize import errors, protocol, sql
from support.materialize.catalog import DEFAULT_RETENTION, Catalog, Clock, Cluster, Relation, text_row
from support.materialize.columns import Column
from support.materialize.errors import ServerError
from support.materialize.execution import Definer
from support.materialize.faults import ConnectionCutError, Faults, Outlet
from support.materialize.releases import RELEASES
from support.materialize.session import Session
from support.materialize.subscription import Subscription

_HOST = "127.0.0.1"
ColumnSpec = Sequence[tuple[str, str | int]]


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class MaterializeDouble:
    """A server that speaks PostgreSQL's protocol and answers as Materialize does.

    The model lives in this object and outlasts the listening socket: `kill` and `start` are a crash and a restart.
    All methods belong to the event loop that `start` ran in.

    Attributes:
        statements: the text of every statement that clients sent, in order.
        passwords: where not empty, clients must give the password of their role.
        definer: knows statements that define something; none by default.
        catalog_delay: seconds that a query on the catalog (`mz_objects`) takes, as where its cluster has no replica.
        connection_limit: how many connections there may be; more are refused.
        reserved: how many of them are kept for administrators.
        taken: how many of them other clients have.
    """

    def __init__(
        self,
        *,
        clock: Clock = wall_clock,
        progress_interval: float = 1.0,
        passwords: dict[str, str] | None = None,
        clusters: Iterable[str] = ("quickstart",),
        release: str = "v26.8",
    ) -> None:
        """Make a server that does not listen yet.

        Args:
            clock: source time in milliseconds. The write frontiers follow it.
            progress_interval: seconds between two progress rows of a quiet relation.
            passwords: role to password; none asks nobody for one.
            release: whose messages it sends, a key of `RELEASES`.
        """
        self.catalog = Catalog(clock, RELEASES[release])
        self.statements: list[str] = []
        self.passwords = dict(passwords or {})
        self.definer: Definer | None = None
        self.progress_interval = progress_interval
        self.catalog_delay = 0.0
        self.connection_limit: int | None = None
        self.reserved = self.taken = 0
        for name in clusters:
            self.catalog.create_cluster(name)
        self._clock = clock
        self._port = 0
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._faults = Faults()
        self._sessions: dict[bytes, Session] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams = asyncio.Event()
        self._pids = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    # --- life

    async def start(self, *, port: int | None = None, lose_history: bool = False) -> int:
        """Listen, and return the port: a given one, else the one of the last time, else a free one.

        Args:
            lose_history: only the present is readable from now on, as after a restart without ``RETAIN HISTORY``.
        """
        if self._server is not None:
            raise RuntimeError("the double is listening already")
        for relation in self.catalog.relations.values():
            relation.tick()
            if lose_history:
                relation.history.compact(relation.history.upper - 1)
        await self._listen(self._port if port is None else port)
        self._ticker = asyncio.create_task(self._tick())
        return self._port

    async def kill(self) -> None:
        """Stop listening and break every connection, as a killed process does. The model stays."""
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
            self._ticker = None
        await self.refuse()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    @property
    def port(self) -> int:
        return self._port

    @property
    def dsn(self) -> str:
        """Where it listens, for role ``materialize`` and without a password."""
        return f"postgresql://materialize@{_HOST}:{self._port}/materialize?sslmode=disable"

    # --- the model

    def create(
        self,
        name: str,
        columns: ColumnSpec,
        *,
        retain: int | None = DEFAULT_RETENTION,
        kind: str = "MATERIALIZED VIEW",
        rows: Iterable[Sequence[str | int | float | bool | None]] = (),
    ) -> Relation:
        """Create a relation.

        Args:
            name: as in SQL; without schema it is in ``public``.
            columns: pairs of name and type.
            retain: milliseconds that stay readable behind the write frontier, ``None`` for all of it.
            rows: what it holds from the start.
        """
        made = self.catalog.create(
            sql.relation_name(name), kind=kind, columns=column_types.columns(columns), retain=retain
        )
        first = list(rows)
        if first:
            made.insert(*first)
        return made

    def relation(self, name: str) -> Relation:
        """The relation behind a name.

        Raises:
            KeyError: there is none.
        """
        full = self.catalog.full(sql.relation_name(name))
        return self.catalog.relations[full]

    def drop(self, relation: Relation) -> None:
        """Drop a relation: its streams end with an error."""
        self.catalog.drop(relation)

    def replace(self, relation: Relation, columns: ColumnSpec | None = None) -> Relation:
        """``CREATE OR REPLACE``: another, empty object of the same name, with the same columns unless given."""
        self.catalog.drop(relation)
        shape: tuple[Column, ...] = relation.columns if columns is None else column_types.columns(columns)
        return self.catalog.create(relation.name, kind=relation.kind, columns=shape, retain=relation.retain)

    def alter_columns(self, relation: Relation, columns: ColumnSpec) -> Relation:
        """Change the shape by DDL: running streams end as with a drop, and a new description shows the new columns."""
        return self.replace(relation, columns)

    def rename(self, relation: Relation, name: str) -> None:
        """Give a relation another name. Its streams go on, silently."""
        self.catalog.rename(relation, sql.relation_name(name))

    def swap_schemas(self, one: str, other: str) -> None:
        """Swap two schemas by name. The streams of their relations go on, silently."""
        self.catalog.swap_schemas(one, other)

    def apply_replacement(self, relation: Relation, rows: Iterable[Sequence[str | int | float | bool | None]]) -> int:
        """Apply a replacement that holds these rows. Streams go on with the difference, at the timestamp returned."""
        self.catalog.apply_replacement(relation)
        wanted, held = Counter(map(text_row, rows)), Counter(relation.rows())
        changes = [(wanted[row] - held[row], row) for row in wanted | held if wanted[row] != held[row]]
        return relation.change(changes)

    def deny(self, role: str, relation: Relation) -> None:
        """Take SELECT away from a role."""
        self.catalog.denied.add((role, relation.id))

    def allow(self, role: str, relation: Relation) -> None:
        """Give SELECT back to a role."""
        self.catalog.denied.discard((role, relation.id))

    def compact(self, relation: Relation, since: int | None = None) -> int:
        """Forget the history before a time, by default before the present. Returns the oldest readable time."""
        relation.history.compact(relation.history.upper - 1 if since is None else since)
        return relation.history.since

    def tick(self) -> None:
        """Move every write frontier up to the clock now, without waiting for the interval."""
        for relation in self.catalog.relations.values():
            relation.tick()

    # --- clusters

    def create_cluster(self, name: str, *, replicas: int = 1) -> Cluster:
        """Create a cluster."""
        made = self.catalog.create_cluster(name)
        made.replicas = replicas
        return made

    def scale(self, cluster: str, replicas: int) -> None:
        """Set the number of replicas. Without any, new statements are refused and running streams fall silent.

        When replicas come back, running streams get a notice and then what they missed.
        """
        found = self.catalog.clusters[cluster]
        if replicas and not found.replicas:
            self._announce(cluster, f'cluster replica {cluster}.r1 changed status to "online" at {self._moment()}')
        found.replicas = replicas
        found.silent = replicas == 0
        found.wake()

    def drop_cluster(self, name: str) -> None:
        """Drop a cluster: the streams on it end with an error."""
        cluster = self.catalog.clusters.pop(name)
        cluster.gone = self.catalog.release.cluster_dropped(name)
        cluster.wake()

    def swap_clusters(self, one: str, other: str) -> None:
        """Swap two clusters by name. Streams go on where they are, silently."""
        self.catalog.swap_clusters(one, other)

    def silence(self, what: Relation | str = "quickstart") -> None:
        """Let a relation, or a cluster by its name, fall silent: no error and no progress.

        A new stream gets its first progress row all the same, and then nothing.
        """
        (what if isinstance(what, Relation) else self.catalog.clusters[what]).silent = True

    def resume(self, what: Relation | str = "quickstart") -> None:
        """End a silence. What was missed arrives with its true timestamps."""
        watched = what if isinstance(what, Relation) else self.catalog.clusters[what]
        watched.silent = False
        watched.wake()

    # --- faults

    def cut(self, after_bytes: int) -> None:
        """Close the connection of the next COPY stream after exactly so many bytes, counted from its CopyOutResponse.

        Called again, it is about the stream after that.
        """
        self._faults.cuts.append(after_bytes)

    async def refuse(self) -> None:
        """Refuse new connections. Open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def admit(self) -> None:
        """Take connections again, on the same port."""
        if self._server is None:
            await self._listen(self._port)

    def deaf(self, on: bool = True) -> None:
        """Accept new connections and never answer them."""
        self._faults.deaf = on

    def slow(self, bytes_per_second: float | None) -> None:
        """Limit the speed of every connection; ``None`` lifts the limit."""
        self._faults.bytes_per_second = bytes_per_second

    def future(self, milliseconds: int) -> None:
        """Let fresh subscriptions start so far in the future, as a restored or different server would. 0 ends it."""
        self._faults.ahead = milliseconds

    def fall_behind(self, relation: Relation) -> None:
        """End the running streams of a relation as those of a client that does not read. What was not sent is lost."""
        for stream in _streams(relation):
            stream.break_off(errors.fell_behind())

    def oversize(self, relation: Relation, on: bool = True) -> None:
        """Let whatever there is to send of a relation be larger than the server's ``max_result_size``."""
        relation.oversized = on
        relation.wake()

    def disconnect(self) -> None:
        """Break every open connection and go on listening."""
        for writer in self._writers:
            writer.transport.abort()

    # --- looking on

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._writers)

    def subscribers(self, relation: Relation) -> int:
        """Open streams of a relation."""
        return len(relation.subscriptions)

    async def subscribed(self, relation: Relation, n: int = 1) -> None:
        """Wait until a relation has so many open streams, each told its first row."""
        await self._until(lambda: sum(1 for stream in _streams(relation) if stream.started) >= n)

    async def unsubscribed(self, relation: Relation) -> None:
        """Wait until a relation has no open stream."""
        await self._until(lambda: not relation.subscriptions)

    async def caught_up(self, relation: Relation) -> None:
        """Wait until every open stream of a relation was sent all that is known."""
        await self._until(lambda: all(stream.caught_up for stream in _streams(relation)))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._streams.clear()
            await self._streams.wait()

    # --- what sessions ask for

    def now(self) -> int:
        return self._clock()

    def ahead(self) -> int:
        return self._faults.ahead

    def streams_changed(self) -> None:
        self._streams.set()

    def over_limit(self) -> ServerError | None:
        current = self.taken + len(self._writers) - 1  # without the one that asks
        if self.connection_limit is None or current < self.connection_limit - self.reserved:
            return None
        return errors.too_many_connections(self.connection_limit, current)

    def _announce(self, cluster: str, text: str) -> None:
        for session in self._sessions.values():
            if session.cluster == cluster:
                session.notify(text)

    def _moment(self) -> str:
        moment = datetime.fromtimestamp(self._clock() / 1000, UTC)
        return f"{moment:%Y-%m-%d %H:%M:%S.%f}+00"

    # --- the socket

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._accept, _HOST, port, limit=1 << 20)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.progress_interval)
            self.tick()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (ConnectionCutError, ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is gone, or a fault sent it away
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._faults.deaf:
            await reader.read()
            return
        first = await self._first_packet(reader, writer)
        if first.code == protocol.CANCEL_REQUEST:
            session = self._sessions.get(first.key)
            if session is not None:
                session.cancel()
            return
        if first.code != protocol.PROTOCOL_3:
            raise ConnectionError(f"unknown protocol {first.code}")
        self._pids += 1
        key = struct.pack("!I4s", self._pids, secrets.token_bytes(4))
        session = Session(self, reader, Outlet(writer, self._faults), key, first.parameters)
        self._sessions[key] = session
        try:
            await session.run()
        finally:
            del self._sessions[key]

    async def _first_packet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> protocol.Startup:
        while True:
            length = int.from_bytes(await reader.readexactly(4), "big")
            first = protocol.startup(await reader.readexactly(length - 4))
            if first.code not in (protocol.SSL_REQUEST, protocol.GSSENC_REQUEST):
                return first
            writer.write(b"N")
            await writer.drain()


def _streams(relation: Relation) -> list[Subscription]:
    return [stream for stream in relation.subscriptions if isinstance(stream, Subscription)]
