"""Carrying statements out for one session: plain results, and streams that wait."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from support.materialize import errors, explain, protocol, settings, sql
from support.materialize.catalog import Catalog, Relation
from support.materialize.columns import Column, column
from support.materialize.errors import ServerError
from support.materialize.faults import Outlet
from support.materialize.history import Row
from support.materialize.subscription import (
    Item,
    Subscription,
    choose_as_of,
    chosen,
    copy_messages,
    described,
    row_fields,
)
from support.materialize.waiting import Interrupts

_STREAMING_HINT = "streaming SUBSCRIBE rows directly requires a client that does not buffer output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a statement is answered with: a tag, and columns of text with rows where it asks for some."""

    tag: str
    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()


Definer = Callable[[str], Result | None]
"""Knows statements that define something: the text of a query -> its result, ``None`` where it does not know it."""


class Host(Protocol):
    """What a session needs of its server."""

    catalog: Catalog
    statements: list[str]
    passwords: dict[str, str]
    definer: Definer | None
    catalog_delay: float

    def now(self) -> int:
        """Source time in milliseconds."""
        ...

    def ahead(self) -> int:
        """How far in the future fresh subscriptions start, in milliseconds."""
        ...

    def streams_changed(self) -> None:
        """A subscription began, moved on or ended."""
        ...

    def over_limit(self) -> ServerError | None:
        """Why the newest connection is one too many."""
        ...


@dataclass(slots=True)
class Cursor:
    """A declared cursor. It starts with the first FETCH: DECLARE plans nothing."""

    statement: sql.Subscribe
    subscription: Subscription | None = None
    pending: list[Row] = field(default_factory=list)


class Execution:
    """The statements of one session, with its variables and its transaction.

    Attributes:
        status: ``I`` idle, ``T`` in a transaction, ``E`` in a failed one.
    """

    def __init__(self, host: Host, outlet: Outlet, interrupts: Interrupts, user: str, values: dict[str, str]) -> None:
        self.status = "I"
        self.values = values
        self._host = host
        self._out = outlet
        self._interrupts = interrupts
        self._user = user
        self._has_read = False
        self._cursors: dict[str, Cursor] = {}

    def describe(self, statement: sql.Statement) -> tuple[Column, ...] | None:
        """Columns of the result, ``None`` for a command. Names and privileges are checked here, as the server does.

        Raises:
            ServerError: a name is unknown, or the role may not read it.
        """
        if isinstance(statement, sql.Copy):
            return self.describe(statement.source)
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
        if isinstance(statement, sql.Explain | sql.Insights):
            return (column("Raw Plan" if isinstance(statement, sql.Explain) else "Plan Insights", "text"),)
        return None

    async def run(self, statement: sql.Statement, parameters: Sequence[str | None], *, headed: bool) -> None:
        """Carry a statement out and send its result, with a row description in front where ``headed``.

        Raises:
            ServerError: to be sent as the statement's answer.
        """
        columns = self.describe(statement)
        if self.status == "E" and not isinstance(statement, sql.Transaction):
            raise errors.aborted()
        streams = isinstance(statement, (sql.Subscribe, sql.Copy))
        if streams and self.status == "T" and self._has_read:
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
            if isinstance(statement, sql.ObjectId):
                await self._catalog_replica()
            rows = self._read(statement, parameters)
            head = protocol.row_description(columns) if headed else b""
            await self._out.send(head + b"".join(map(protocol.data_row, rows)))
            await self._out.send(protocol.command_complete(f"SELECT {len(rows)}"))
        else:
            await self._out.send(self._command(statement))

    async def tell(self, result: Result) -> None:
        """Send a result that was found elsewhere."""
        columns = [column(name, "text") for name in result.columns]
        head = protocol.row_description(columns) if columns else b""
        rows = b"".join(map(protocol.data_row, result.rows))
        await self._out.send(head + rows + protocol.command_complete(result.tag))

    async def fail(self, failure: ServerError) -> None:
        """Send an error; a transaction fails with it."""
        if self.status == "T":
            self.status = "E"
        await self._out.send(protocol.error(failure))

    def end_transaction(self) -> None:
        """Close what a transaction held."""
        for name in list(self._cursors):
            self._close_cursor(name)
        self.status = "I"
        self._has_read = False

    # --- rows at once

    def _relation(self, name: sql.Name) -> Relation:
        relation = self._host.catalog.find(name, self.values["database"])
        self._host.catalog.permit(self._user, relation)
        return relation

    def _read(self, statement: sql.Statement, parameters: Sequence[str | None]) -> list[Row]:
        if isinstance(statement, sql.Show):
            value = self.values.get(statement.name)
            if value is None:
                raise errors.unknown_variable(statement.name)
            return [(value,)]
        if isinstance(statement, sql.Constant):
            return [tuple(self._value(value) for _, value in statement.items)]
        if isinstance(statement, sql.ObjectId):
            return self._object_id(parameters[0] if statement.name is None else statement.name)
        if isinstance(statement, sql.Explain):
            return [(explain.raw_plan(self._host.catalog, statement, self.values["database"]),)]
        if isinstance(statement, sql.Insights):
            return [(explain.insights(self._host.catalog, statement, self.values["cluster"]),)]
        if isinstance(statement, sql.Select):
            return self._rows(statement)
        raise TypeError(f"{statement} gives no rows")

    def _object_id(self, name: str | None) -> list[Row]:
        if name is None:
            return []
        try:
            relation = self._host.catalog.find(sql.relation_name(name), self.values["database"])
        except ServerError:
            raise errors.missing_object(name) from None
        return [(relation.id,)]

    async def _catalog_replica(self) -> None:
        """Wait as long as the replica that answers questions about the catalog takes."""
        loop = asyncio.get_running_loop()
        ready = loop.time() + self._host.catalog_delay
        while loop.time() < ready:
            self._interrupts.check()
            await self._interrupts.wait(ready - loop.time())

    def _rows(self, statement: sql.Select) -> list[Row]:
        relation = self._relation(statement.relation)
        cluster = self._host.catalog.cluster(self.values["cluster"])
        if cluster.silent or relation.silent:
            raise errors.silent_select()
        if relation.history.failing is not None:
            raise errors.evaluation(relation.history.failing)
        places = chosen(statement.columns, relation)
        return [tuple(row[at] for at in places) for row in relation.rows()[: statement.limit]]

    def _value(self, value: str) -> str:
        release = self._host.catalog.release
        functions = {
            "mz_version()": release.mz_version,
            "version()": f"PostgreSQL 9.5 on x86_64-unknown-linux-gnu (Materialize {release.version})",
            "current_user()": self._user,
            "current_database()": self.values["database"],
            "mz_now()": str(self._host.now()),
        }
        return functions.get(value, value.strip("'"))

    # --- commands

    def _command(self, statement: sql.Statement) -> bytes:
        if isinstance(statement, sql.Transaction):
            return self._transact(statement.tag)
        if isinstance(statement, sql.SetVariable):
            return self._set(statement)
        if isinstance(statement, sql.Declare):
            if self.status != "T":
                raise errors.outside_transaction("DECLARE CURSOR")
            self._cursors[statement.cursor] = Cursor(statement.subscribe)
            return protocol.command_complete("DECLARE CURSOR")
        if isinstance(statement, sql.CloseCursor):
            self._close_cursor(statement.cursor)
            return protocol.command_complete("CLOSE CURSOR")
        raise TypeError(f"{statement} is no command")

    def _transact(self, tag: str) -> bytes:
        if tag in ("BEGIN", "START TRANSACTION"):
            self.status = "T"
            return protocol.command_complete(tag)
        if self.status == "E":
            tag = "ROLLBACK"
        self.end_transaction()
        return protocol.command_complete(tag)

    def _set(self, statement: sql.SetVariable) -> bytes:
        self.values[statement.name] = statement.value
        answer = b""
        if statement.name == "cluster" and statement.value not in self._host.catalog.clusters:
            answer = protocol.notice("MZ007", f'cluster "{statement.value}" does not exist')
        reported = settings.reported_name(statement.name)
        if reported is not None:
            answer += protocol.parameter_status(reported, statement.value)
        return answer + protocol.command_complete("SET")

    def _close_cursor(self, name: str) -> None:
        cursor = self._cursors.pop(name, None)
        if cursor is None:
            raise errors.unknown_cursor(name)
        if cursor.subscription is not None:
            cursor.subscription.close()
            self._host.streams_changed()

    # --- streams

    def _subscribe(self, statement: sql.Subscribe) -> Subscription:
        relation = self._relation(statement.relation)
        cluster = self._host.catalog.cluster(self.values["cluster"])
        host = self._host
        as_of = choose_as_of(statement, relation, cluster, host.catalog.release, now=host.now(), ahead=host.ahead())
        return Subscription(statement, relation, cluster, as_of)

    @contextmanager
    def _subscribed(self, statement: sql.Subscribe) -> Iterator[Subscription]:
        subscription = self._subscribe(statement)
        try:
            with self._interrupts.watching(subscription.relation, subscription.cluster):
                yield subscription
        finally:
            subscription.close()
            self._host.streams_changed()

    async def _batches(self, subscription: Subscription) -> AsyncIterator[list[Item]]:
        """What a subscription has to tell, until it ends."""
        while not subscription.ended:
            notices = self._interrupts.check()
            if notices:
                await self._out.send(notices)
            items = subscription.poll()
            if items:
                yield items
                self._host.streams_changed()
            elif not subscription.ended:
                await self._interrupts.wait()

    async def _copy(self, source: sql.Subscribe | sql.Select, columns: Sequence[Column]) -> None:
        if isinstance(source, sql.Select):
            lines = [protocol.copy_data(protocol.copy_fields(row) + b"\n") for row in self._rows(source)]
            await self._out.send(protocol.copy_out(len(columns)) + b"".join(lines) + protocol.copy_done())
            await self._out.send(protocol.command_complete(f"COPY {len(lines)}"))
            return
        with self._subscribed(source) as subscription:
            self._out.begin_copy()
            try:
                await self._out.send(protocol.copy_out(len(columns)))
                async for items in self._batches(subscription):
                    for chunk in copy_messages(items, subscription.width, progress=source.progress):
                        await self._out.send(chunk)
                done = protocol.copy_done() + protocol.command_complete(f"COPY {subscription.told}")
                await self._out.send(done)
            except ServerError as failure:
                await self.fail(failure)  # from here, so that a cut may fall into this message too
            finally:
                self._out.end_copy()

    async def _stream(self, statement: sql.Subscribe, columns: Sequence[Column], *, headed: bool) -> None:
        with self._subscribed(statement) as subscription:
            head = protocol.row_description(columns) if headed else b""
            await self._out.send(head + protocol.notice("01000", _STREAMING_HINT))
            async for items in self._batches(subscription):
                rows = row_fields(items, subscription.width, progress=statement.progress)
                await self._out.send(b"".join(map(protocol.data_row, rows)))
            await self._out.send(protocol.command_complete(f"SUBSCRIBE {subscription.told}"))

    # --- cursors

    async def _fetch(self, statement: sql.Fetch, *, headed: bool) -> None:
        cursor = self._cursors.get(statement.cursor)
        if cursor is None:
            raise errors.unknown_cursor(statement.cursor)
        if cursor.subscription is None:
            cursor.subscription = self._subscribe(cursor.statement)
        if not cursor.pending:
            with self._interrupts.watching(cursor.subscription.relation, cursor.subscription.cluster):
                await self._fill(cursor, cursor.subscription, statement.seconds)
        rows = cursor.pending[: statement.count]
        del cursor.pending[: len(rows)]
        columns = described(cursor.statement, cursor.subscription.relation)
        head = protocol.row_description(columns) if headed else b""
        await self._out.send(head + b"".join(map(protocol.data_row, rows)))
        await self._out.send(protocol.command_complete(f"FETCH {len(rows)}"))

    async def _fill(self, cursor: Cursor, subscription: Subscription, seconds: float | None) -> None:
        """Wait until a cursor has rows; where a time is given, use all of it (seen on a live server)."""
        loop = asyncio.get_running_loop()
        deadline = None if seconds is None else loop.time() + seconds
        while not subscription.ended and (deadline is not None or not cursor.pending):
            self._interrupts.check()
            cursor.pending += row_fields(subscription.poll(), subscription.width, progress=cursor.statement.progress)
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                return
            if left is not None or not cursor.pending:
                await self._interrupts.wait(left)
