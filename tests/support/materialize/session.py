"""One connection: start-up, simple and extended protocol, and the statements."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from support.materialize import errors, protocol, sql
from support.materialize.catalog import Catalog, Cluster, Relation
from support.materialize.columns import Column, column
from support.materialize.errors import ServerError
from support.materialize.faults import Outlet
from support.materialize.subscription import (
    Item,
    Subscription,
    choose_as_of,
    chosen,
    copy_messages,
    described,
    row_fields,
)

VERSION = "v26.8.0-dev.0"
_MZ_VERSION = f"{VERSION} (398408c42)"
_ORGANIZATION = "541266c2-5165-4015-a2d3-43e201c51ae4"
_REGION = "docker/container"
_STREAMING_HINT = "streaming SUBSCRIBE rows directly requires a client that does not buffer output"
_COMMAND_OPTION = re.compile(r"(?:--|-c\s*)([A-Za-z_]+)=(\S*)")

_REPORTED = {
    "application_name": "",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "integer_datetimes": "on",
    "server_version": "9.5.0",
    "standard_conforming_strings": "on",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "cluster": "quickstart",
    "cluster_replica": "",
    "default_cluster_replication_factor": "1",
    "database": "materialize",
    "search_path": "public",
    "mz_version": _MZ_VERSION,
}
"""The parameters that the server reports at the start, in its order, with their values unless others are asked for."""

_UNREPORTED = {
    "transaction_isolation": "strict serializable",
    "statement_timeout": "60 s",
    "idle_in_transaction_session_timeout": "120 s",
    "extra_float_digits": "3",
    "client_min_messages": "notice",
}


class DisconnectedError(Exception):
    """The client went away."""


class Host(Protocol):
    """What a session needs of its server."""

    catalog: Catalog
    statements: list[str]
    passwords: dict[str, str]

    def now(self) -> int:
        """Source time in milliseconds."""
        ...

    def ahead(self) -> int:
        """How far in the future fresh subscriptions start, in milliseconds."""
        ...

    def streams_changed(self) -> None:
        """A subscription began, moved on or ended."""
        ...


Message = tuple[bytes, bytes]


class Inbox:
    """Messages of the client, read ahead so that a client that leaves is noticed while a statement runs."""

    def __init__(self, reader: asyncio.StreamReader, wake: asyncio.Event) -> None:
        self.gone = False
        self._reader = reader
        self._wake = wake
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()

    async def pump(self) -> None:
        """Read until the connection ends."""
        try:
            while True:
                kind = await self._reader.readexactly(1)
                length = int.from_bytes(await self._reader.readexactly(4), "big")
                self._queue.put_nowait((kind, await self._reader.readexactly(length - 4)))
        except (asyncio.IncompleteReadError, OSError):
            self.gone = True
            self._wake.set()
            self._queue.put_nowait(None)

    async def next(self) -> Message | None:
        return await self._queue.get()


@dataclass(slots=True)
class Prepared:
    statement: sql.Statement
    text: str
    columns: tuple[Column, ...] | None


@dataclass(slots=True)
class Portal:
    prepared: Prepared
    parameters: tuple[str | None, ...]


@dataclass(slots=True)
class Cursor:
    """A declared cursor. It starts with the first FETCH: DECLARE plans nothing."""

    statement: sql.Subscribe
    subscription: Subscription | None = None
    pending: list[tuple[str | None, ...]] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """A result that is complete at once."""

    rows: Sequence[Sequence[str | None]]
    tag: str


class Session:
    """A connection after its start-up packet. `run` serves it to its end."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, outlet: Outlet, key: bytes) -> None:
        self.key = key
        self.user = ""
        self.settings: dict[str, str] = {}
        self._host = host
        self._reader = reader
        self._out = outlet
        self._wake = asyncio.Event()
        self._inbox = Inbox(reader, self._wake)
        self._running = False
        self._cancelled = False
        self._status = "I"
        self._has_read = False
        self._skipping = False
        self._notices: list[bytes] = []
        self._prepared: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._cursors: dict[str, Cursor] = {}

    def cancel(self) -> None:
        """End the running statement with 57014. Where none runs, nothing happens."""
        if self._running:
            self._cancelled = True
            self._wake.set()

    def notify(self, text: str) -> None:
        """Send a notice in the middle of the running stream. Where none runs, it is lost."""
        if self._running:
            self._notices.append(protocol.notice("00000", text))
            self._wake.set()

    async def run(self, parameters: dict[str, str]) -> None:
        """Greet the client and serve it until it leaves.

        Raises:
            ConnectionCutError: a fault closed the connection.
            OSError: the connection broke.
        """
        pump = asyncio.create_task(self._inbox.pump())
        try:
            if not await self._authenticate(parameters):
                return
            await self._greet(parameters)
            while (message := await self._inbox.next()) is not None and message[0] != b"X":
                await self._answer(*message)
        except DisconnectedError:
            return
        finally:
            pump.cancel()
            self._end_transaction()

    # --- start-up

    async def _authenticate(self, parameters: dict[str, str]) -> bool:
        self.user = parameters.get("user", "")
        if self._host.passwords:
            await self._out.send(protocol.authentication_cleartext())
            message = await self._inbox.next()
            if message is None:
                return False
            if message[0] != b"p" or self._host.passwords.get(self.user) != protocol.query(message[1]):
                await self._out.send(protocol.error(errors.invalid_password()))
                return False
        await self._out.send(protocol.authentication_ok())
        return True

    async def _greet(self, parameters: dict[str, str]) -> None:
        self.settings = {name.lower(): value for name, value in (_REPORTED | _UNREPORTED).items()}
        asked = {name: value for name, value in parameters.items() if name not in ("user", "options", "replication")}
        asked |= dict(_COMMAND_OPTION.findall(parameters.get("options", "")))
        self.settings |= {name.lower(): value for name, value in asked.items()}
        self.settings["client_encoding"] = "UTF8"
        cluster = self.settings["cluster"]
        missing = cluster not in self._host.catalog.clusters
        parts = [protocol.parameter_status(name, self.settings[name.lower()]) for name in _REPORTED]
        parts.append(protocol.backend_key(self.key))
        parts.append(protocol.notice("00000", self._welcome(f"{cluster} (does not exist)" if missing else cluster)))
        if missing:
            parts.append(
                protocol.notice(
                    "MZ005",
                    f'session default cluster "{cluster}" does not exist',
                    "Pick an extant cluster with SET CLUSTER = name. Run SHOW CLUSTERS to see available clusters.",
                )
            )
        parts.append(protocol.ready(self._status))
        await self._out.send(b"".join(parts))

    def _welcome(self, cluster: str) -> str:
        lines = [
            f"connected to Materialize {VERSION}",
            f"  Org ID: {_ORGANIZATION}",
            f"  Region: {_REGION}",
            f"  User: {self.user}",
            f"  Cluster: {cluster}",
            f"  Database: {self.settings['database']}",
            f"  Schema: {self.settings['search_path']}",
            f"  Session UUID: {uuid.uuid4()}",
            "",
            "Issue a SQL query to get started. Need help?",
            "  View documentation: https://materialize.com/s/docs",
            "  Join our Slack community: https://materialize.com/s/chat",
            "    ",
        ]
        return "\n".join(lines)

    # --- messages

    async def _answer(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            await self._simple(protocol.query(body))
        elif kind == b"S":
            self._skipping = False
            await self._out.send(protocol.ready(self._status))
        elif kind != b"H" and not self._skipping:
            try:
                await self._extended(kind, body)
            except ServerError as failure:
                self._skipping = True
                await self._fail(failure)

    async def _simple(self, text: str) -> None:
        try:
            for part in sql.split(text):
                self._host.statements.append(part)
                statement = sql.statement(part)
                columns = self._describe(statement)
                await self._execute(statement, (), columns, headed=True)
        except ServerError as failure:
            await self._fail(failure)
        await self._out.send(protocol.ready(self._status))

    async def _extended(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            parse = protocol.parse(body)
            self._host.statements.append(parse.sql)
            statement = sql.statement(parse.sql)
            self._prepared[parse.name] = Prepared(statement, parse.sql, self._describe(statement))
            await self._out.send(protocol.PARSE_COMPLETE)
        elif kind == b"B":
            bound = protocol.bind(body)
            if any(bound.result_formats):
                raise errors.binary_refused()
            self._portals[bound.portal] = Portal(self._find_prepared(bound.statement), bound.parameters)
            await self._out.send(protocol.BIND_COMPLETE)
        elif kind == b"D":
            await self._describe_target(protocol.target(body))
        elif kind == b"E":
            name, _ = protocol.execute(body)
            portal = self._find_portal(name)
            columns = self._describe(portal.prepared.statement)
            if columns != portal.prepared.columns:
                raise errors.shape_changed()
            await self._execute(portal.prepared.statement, portal.parameters, columns, headed=False)
        elif kind == b"C":
            closing = protocol.target(body)
            self._prepared.pop(closing.name, None) if closing.kind == "S" else self._portals.pop(closing.name, None)
            await self._out.send(protocol.CLOSE_COMPLETE)
        else:
            raise protocol.ProtocolError(f"a client does not send {kind!r}")

    async def _describe_target(self, wanted: protocol.Target) -> None:
        if wanted.kind == "S":
            prepared = self._find_prepared(wanted.name)
            oids = [25] if isinstance(prepared.statement, sql.ObjectId) and prepared.statement.name is None else []
            await self._out.send(protocol.parameter_description(oids))
        else:
            prepared = self._find_portal(wanted.name).prepared
        copying = prepared.columns is None or isinstance(prepared.statement, sql.Copy)
        await self._out.send(protocol.NO_DATA if copying else protocol.row_description(prepared.columns or ()))

    async def _fail(self, failure: ServerError) -> None:
        if self._status == "T":
            self._status = "E"
        await self._out.send(protocol.error(failure))

    def _find_prepared(self, name: str) -> Prepared:
        if name not in self._prepared:
            raise errors.unknown_prepared(name)
        return self._prepared[name]

    def _find_portal(self, name: str) -> Portal:
        if name not in self._portals:
            raise errors.unknown_portal(name)
        return self._portals[name]

    # --- statements

    def _relation(self, name: sql.Name) -> Relation:
        relation = self._host.catalog.find(name, self.settings["database"])
        self._host.catalog.permit(self.user, relation)
        return relation

    def _describe(self, statement: sql.Statement) -> tuple[Column, ...] | None:
        """Columns of the result, ``None`` for a command. Names and privileges are checked here, as the server does."""
        if isinstance(statement, sql.Copy):
            return self._describe(statement.source)
        if isinstance(statement, sql.Subscribe):
            return described(statement, self._relation(statement.relation))
        if isinstance(statement, sql.Select):
            relation = self._relation(statement.relation)
            return tuple(relation.columns[at] for at in chosen(statement.columns, relation))
        if isinstance(statement, sql.Show):
            return (column(statement.name, "text"),)
        if isinstance(statement, sql.Constant):
            return tuple(column(name, "int4" if value.isdecimal() else "text") for name, value in statement.items)
        if isinstance(statement, sql.ObjectId):
            return (column("id", "text"),)
        return None

    async def _execute(
        self,
        statement: sql.Statement,
        parameters: tuple[str | None, ...],
        columns: tuple[Column, ...] | None,
        *,
        headed: bool,
    ) -> None:
        """Run a statement and send its result, with a row description in front where ``headed``."""
        if self._status == "E" and not isinstance(statement, sql.Transaction):
            raise errors.aborted()
        if isinstance(statement, (sql.Subscribe, sql.Copy)) and self._status == "T" and self._has_read:
            raise errors.not_the_only_read()
        self._has_read = self._has_read or columns is not None
        if isinstance(statement, sql.Copy):
            await self._copy(statement.source, columns or ())
        elif isinstance(statement, sql.Subscribe):
            await self._stream(statement, columns or (), headed=headed)
        elif isinstance(statement, sql.Fetch):
            await self._fetch(statement, headed=headed)
        elif isinstance(statement, sql.Empty):
            await self._out.send(protocol.EMPTY_QUERY)
        elif columns is not None:
            table = self._read(statement, parameters)
            if headed:
                await self._out.send(protocol.row_description(columns))
            for start in range(0, len(table.rows), 1000):
                await self._out.send(b"".join(map(protocol.data_row, table.rows[start : start + 1000])))
            await self._out.send(protocol.command_complete(table.tag))
        else:
            await self._out.send(self._command(statement))

    def _read(self, statement: sql.Statement, parameters: tuple[str | None, ...]) -> Table:
        if isinstance(statement, sql.Show):
            value = self.settings.get(statement.name)
            if value is None:
                raise ServerError("42704", f'unrecognized configuration parameter "{statement.name}"')
            return Table([(value,)], "SELECT 1")
        if isinstance(statement, sql.Constant):
            return Table([tuple(self._value(value) for _, value in statement.items)], "SELECT 1")
        if isinstance(statement, sql.ObjectId):
            name = parameters[0] if statement.name is None else statement.name
            return self._object_id(name)
        if isinstance(statement, sql.Select):
            rows = self._rows(statement)
            return Table(rows, f"SELECT {len(rows)}")
        raise TypeError(f"{statement} gives no rows")

    def _object_id(self, name: str | None) -> Table:
        if name is None:
            return Table([], "SELECT 0")
        try:
            relation = self._host.catalog.find(sql.relation_name(name), self.settings["database"])
        except ServerError:
            raise errors.missing_object(name) from None
        return Table([(relation.id,)], "SELECT 1")

    def _rows(self, statement: sql.Select) -> list[tuple[str | None, ...]]:
        relation = self._relation(statement.relation)
        cluster = self._host.catalog.cluster(self.settings["cluster"])
        if cluster.silent or relation.silent:
            raise ServerError("57014", "the double has no answer for a SELECT on a silent relation")
        if relation.history.failing is not None:
            raise errors.evaluation(relation.history.failing)
        places = chosen(statement.columns, relation)
        return [tuple(row[at] for at in places) for row in relation.rows()[: statement.limit]]

    def _value(self, value: str) -> str:
        functions = {
            "mz_version()": _MZ_VERSION,
            "version()": f"PostgreSQL 9.5 on x86_64-unknown-linux-gnu (Materialize {VERSION})",
            "current_user()": self.user,
            "current_database()": self.settings["database"],
            "mz_now()": str(self._host.now()),
        }
        return functions.get(value, value.strip("'"))

    def _command(self, statement: sql.Statement) -> bytes:
        if isinstance(statement, sql.Transaction):
            return self._transact(statement.tag)
        if isinstance(statement, sql.SetVariable):
            return self._set(statement)
        if isinstance(statement, sql.Declare):
            if self._status != "T":
                raise errors.outside_transaction("DECLARE CURSOR")
            self._cursors[statement.cursor] = Cursor(statement.subscribe)
            return protocol.command_complete("DECLARE CURSOR")
        if isinstance(statement, sql.CloseCursor):
            self._close_cursor(statement.cursor)
            return protocol.command_complete("CLOSE CURSOR")
        raise TypeError(f"{statement} is no command")

    def _transact(self, tag: str) -> bytes:
        if tag in ("BEGIN", "START TRANSACTION"):
            self._status = "T"
            return protocol.command_complete(tag)
        if self._status == "E":
            tag = "ROLLBACK"
        self._end_transaction()
        return protocol.command_complete(tag)

    def _end_transaction(self) -> None:
        for name in list(self._cursors):
            self._close_cursor(name)
        self._status = "I"
        self._has_read = False

    def _set(self, statement: sql.SetVariable) -> bytes:
        self.settings[statement.name] = statement.value
        answer = b""
        if statement.name == "cluster" and statement.value not in self._host.catalog.clusters:
            answer = protocol.notice("MZ007", f'cluster "{statement.value}" does not exist')
        reported = next((name for name in _REPORTED if name.lower() == statement.name), None)
        if reported is not None:
            answer += protocol.parameter_status(reported, statement.value)
        return answer + protocol.command_complete("SET")

    # --- streams

    def _open(self, statement: sql.Subscribe) -> Subscription:
        relation = self._relation(statement.relation)
        cluster = self._host.catalog.cluster(self.settings["cluster"])
        as_of = choose_as_of(statement, relation, cluster, now=self._host.now(), ahead=self._host.ahead())
        return Subscription(statement, relation, cluster, as_of)

    async def _copy(self, source: sql.Subscribe | sql.Select, columns: Sequence[Column]) -> None:
        if isinstance(source, sql.Select):
            lines = [protocol.copy_data(protocol.copy_fields(row) + b"\n") for row in self._rows(source)]
            await self._out.send(protocol.copy_out(len(columns)) + b"".join(lines) + protocol.copy_done())
            await self._out.send(protocol.command_complete(f"COPY {len(lines)}"))
            return
        subscription = self._open(source)
        width = len(columns) - (3 if source.progress else 2)
        self._out.begin_copy()
        try:
            await self._out.send(protocol.copy_out(len(columns)))
            async for items in self._batches(subscription):
                for chunk in copy_messages(items, width, progress=source.progress):
                    await self._out.send(chunk)
            await self._out.send(protocol.copy_done() + protocol.command_complete(f"COPY {subscription.told}"))
        except ServerError as failure:
            # Sent from here, so that a cut may fall into this message too.
            await self._out.send(protocol.error(failure))
            if self._status == "T":
                self._status = "E"
        finally:
            self._out.end_copy()

    async def _stream(self, statement: sql.Subscribe, columns: Sequence[Column], *, headed: bool) -> None:
        subscription = self._open(statement)
        width = len(columns) - (3 if statement.progress else 2)
        if headed:
            await self._out.send(protocol.row_description(columns))
        await self._out.send(protocol.notice("01000", _STREAMING_HINT))
        async for items in self._batches(subscription):
            rows = row_fields(items, width, progress=statement.progress)
            await self._out.send(b"".join(map(protocol.data_row, rows)))
        await self._out.send(protocol.command_complete(f"SUBSCRIBE {subscription.told}"))

    async def _batches(self, subscription: Subscription) -> AsyncIterator[list[Item]]:
        """What a subscription has to tell, until it ends. Closes it."""
        watching: tuple[Relation, Cluster] = (subscription.relation, subscription.cluster)
        for watched in watching:
            watched.watchers.add(self._wake)
        self._running = True
        try:
            while not subscription.ended:
                self._wake.clear()
                self._check_interrupts()
                while self._notices:
                    await self._out.send(self._notices.pop(0))
                items = subscription.poll()
                if items:
                    yield items
                    self._host.streams_changed()
                elif not subscription.ended:
                    await self._wake.wait()
        finally:
            self._running = self._cancelled = False
            for watched in watching:
                watched.watchers.discard(self._wake)
            subscription.close()
            self._host.streams_changed()

    def _check_interrupts(self) -> None:
        if self._cancelled:
            self._cancelled = False
            raise errors.cancelled()
        if self._inbox.gone:
            raise DisconnectedError

    # --- cursors

    def _close_cursor(self, name: str) -> None:
        cursor = self._cursors.pop(name, None)
        if cursor is None:
            raise errors.unknown_cursor(name)
        if cursor.subscription is not None:
            cursor.subscription.close()

    async def _fetch(self, statement: sql.Fetch, *, headed: bool) -> None:
        cursor = self._cursors.get(statement.cursor)
        if cursor is None:
            raise errors.unknown_cursor(statement.cursor)
        if cursor.subscription is None:
            cursor.subscription = self._open(cursor.statement)
        columns = described(cursor.statement, cursor.subscription.relation)
        if not cursor.pending:
            await self._fill(cursor, cursor.subscription, statement.timeout)
        rows, cursor.pending = (
            cursor.pending[: statement.count],
            cursor.pending[len(cursor.pending[: statement.count]) :],
        )
        head = protocol.row_description(columns) if headed else b""
        tag = protocol.command_complete(f"FETCH {len(rows)}")
        await self._out.send(head + b"".join(map(protocol.data_row, rows)) + tag)

    async def _fill(self, cursor: Cursor, subscription: Subscription, timeout: float | None) -> None:  # noqa: ASYNC109
        """Wait until a cursor has rows; with a timeout, use all of it (seen on a live server)."""
        watching: tuple[Relation, Cluster] = (subscription.relation, subscription.cluster)
        width = len(subscription.relation.columns)
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        for watched in watching:
            watched.watchers.add(self._wake)
        self._running = True
        try:
            while not subscription.ended and (deadline is not None or not cursor.pending):
                self._wake.clear()
                self._check_interrupts()
                cursor.pending += row_fields(subscription.poll(), width, progress=cursor.statement.progress)
                left = None if deadline is None else deadline - loop.time()
                if left is not None and left <= 0:
                    return
                if left is not None or not cursor.pending:
                    await _wait(self._wake, left)
        finally:
            self._running = self._cancelled = False
            for watched in watching:
                watched.watchers.discard(self._wake)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
