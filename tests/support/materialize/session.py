"""One connection: its start-up, and the messages of the simple and the extended protocol."""

import asyncio
from dataclasses import dataclass

from support.materialize import errors, protocol, settings, sql
from support.materialize.columns import Column
from support.materialize.errors import ServerError
from support.materialize.execution import Execution, Host
from support.materialize.faults import Outlet
from support.materialize.waiting import DisconnectedError, Inbox, Interrupts


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared statement, with the columns that its client was told of."""

    statement: sql.Statement
    columns: tuple[Column, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    prepared: Prepared
    parameters: tuple[str | None, ...]


class Session:
    """A connection after its start-up packet. `run` serves it to its end."""

    def __init__(
        self, host: Host, reader: asyncio.StreamReader, outlet: Outlet, key: bytes, parameters: dict[str, str]
    ) -> None:
        self._host = host
        self._out = outlet
        self._key = key
        self._user = parameters.get("user", "")
        self._values = settings.initial(parameters, host.catalog.release)
        self._interrupts = Interrupts()
        self._inbox = Inbox(reader, self._interrupts)
        self._execution = Execution(host, outlet, self._interrupts, self._user, self._values)
        self._skipping = False
        self._prepared: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}

    @property
    def cluster(self) -> str:
        """The cluster that statements run on."""
        return self._values["cluster"]

    def cancel(self) -> None:
        """End the running statement with 57014. Where none runs, nothing happens."""
        self._interrupts.cancel()

    def notify(self, text: str) -> None:
        """Send a notice in the middle of the running stream. Where none runs, it is lost."""
        self._interrupts.notify(protocol.notice("00000", text))

    async def run(self) -> None:
        """Greet the client and serve it until it leaves.

        Raises:
            ConnectionCutError: a fault closed the connection.
            OSError: the connection broke.
        """
        pump = asyncio.create_task(self._inbox.pump())
        try:
            refusal = self._host.over_limit()
            if refusal is not None:
                await self._out.send(protocol.error(refusal))
                return
            if not await self._authenticated():
                return
            await self._greet()
            while (message := await self._inbox.next()) is not None and message[0] != b"X":
                await self._answer(*message)
        except DisconnectedError:
            return
        finally:
            pump.cancel()
            self._execution.end_transaction()

    # --- start-up

    async def _authenticated(self) -> bool:
        if self._host.passwords:
            await self._out.send(protocol.authentication_cleartext())
            message = await self._inbox.next()
            if message is None:
                return False
            if message[0] != b"p" or self._host.passwords.get(self._user) != protocol.query(message[1]):
                await self._out.send(protocol.error(errors.invalid_password()))
                return False
        await self._out.send(protocol.authentication_ok())
        return True

    async def _greet(self) -> None:
        missing = self.cluster not in self._host.catalog.clusters
        shown = f"{self.cluster} (does not exist)" if missing else self.cluster
        parts = [protocol.parameter_status(name, self._values[name.lower()]) for name in settings.REPORTED]
        parts.append(protocol.backend_key(self._key))
        greeting = settings.welcome(self._host.catalog.release, self._user, shown, self._values)
        parts.append(protocol.notice("00000", greeting))
        if missing:
            text = f'session default cluster "{self.cluster}" does not exist'
            hint = "Pick an extant cluster with SET CLUSTER = name. Run SHOW CLUSTERS to see available clusters."
            parts.append(protocol.notice("MZ005", text, hint))
        parts.append(protocol.ready(self._execution.status))
        await self._out.send(b"".join(parts))

    # --- messages

    async def _answer(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            await self._simple(protocol.query(body))
        elif kind == b"S":
            self._skipping = False
            await self._out.send(protocol.ready(self._execution.status))
        elif kind != b"H" and not self._skipping:
            try:
                await self._extended(kind, body)
            except ServerError as failure:
                self._skipping = True
                await self._execution.fail(failure)

    async def _simple(self, text: str) -> None:
        try:
            result = None if self._host.definer is None else self._host.definer(text)
            if result is not None:
                self._host.statements.append(text)
                await self._execution.tell(result)
            else:
                await self._all(text)
        except ServerError as failure:
            await self._execution.fail(failure)
        await self._out.send(protocol.ready(self._execution.status))

    async def _all(self, text: str) -> None:
        for part in sql.split(text):
            self._host.statements.append(part)
            await self._run(sql.statement(part), (), headed=True)

    async def _extended(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            parse = protocol.parse(body)
            self._host.statements.append(parse.sql)
            statement = sql.statement(parse.sql)
            columns = self._execution.describe(statement)
            self._prepared[parse.name] = Prepared(statement=statement, columns=columns)
            await self._out.send(protocol.PARSE_COMPLETE)
        elif kind == b"B":
            bound = protocol.bind(body)
            if any(bound.result_formats):
                raise errors.binary_refused()
            prepared = self._find_prepared(bound.statement)
            self._portals[bound.portal] = Portal(prepared=prepared, parameters=bound.parameters)
            await self._out.send(protocol.BIND_COMPLETE)
        elif kind == b"D":
            await self._describe(protocol.target(body))
        elif kind == b"E":
            portal = self._find_portal(protocol.execute(body)[0])
            if self._execution.describe(portal.prepared.statement) != portal.prepared.columns:
                raise errors.shape_changed()
            await self._run(portal.prepared.statement, portal.parameters, headed=False)
        elif kind == b"C":
            closing = protocol.target(body)
            kept: dict[str, Prepared] | dict[str, Portal] = self._prepared if closing.kind == "S" else self._portals
            kept.pop(closing.name, None)
            await self._out.send(protocol.CLOSE_COMPLETE)
        else:
            raise protocol.ProtocolError(f"a client does not send {kind!r}")

    async def _run(self, statement: sql.Statement, parameters: tuple[str | None, ...], *, headed: bool) -> None:
        if isinstance(statement, sql.Deallocate):
            if statement.name is None:
                self._prepared.clear()
            else:
                self._prepared.pop(statement.name, None)
            await self._out.send(protocol.command_complete("DEALLOCATE"))
            return
        await self._execution.run(statement, parameters, headed=headed)

    async def _describe(self, wanted: protocol.Target) -> None:
        if wanted.kind == "S":
            prepared = self._find_prepared(wanted.name)
            oids = [25] if isinstance(prepared.statement, sql.ObjectId) and prepared.statement.name is None else []
            await self._out.send(protocol.parameter_description(oids))
        else:
            prepared = self._find_portal(wanted.name).prepared
        silent = prepared.columns is None or isinstance(prepared.statement, sql.Copy)
        await self._out.send(protocol.NO_DATA if silent else protocol.row_description(prepared.columns or ()))

    def _find_prepared(self, name: str) -> Prepared:
        if name not in self._prepared:
            raise errors.unknown_prepared(name)
        return self._prepared[name]

    def _find_portal(self, name: str) -> Portal:
        if name not in self._portals:
            raise errors.unknown_portal(name)
        return self._portals[name]
