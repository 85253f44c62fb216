"""One connection: the login, and the messages of the simple protocol and of Parse and Describe."""

import asyncio
import json
import re
import uuid

from support.materialize import errors, messages
from support.materialize.columns import PREFIX, Column, column
from support.materialize.errors import ServerError
from support.materialize.history import Row
from support.materialize.model import Model, Result
from support.materialize.relation import Relation
from support.materialize.statements import Statement, statement
from support.materialize.subscription import Subscription, choose_as_of

_OPTION = re.compile(r"(?:--|-c\s*)([A-Za-z_]+)=((?:\\.|\S)*)")

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
    "mz_version": "",
}
"""The session variables that the server reports, in its order, with their defaults."""


class DisconnectedError(Exception):
    """The client went away, or a fault closed its connection."""


class Session:
    """A connection after its startup packet."""

    def __init__(
        self,
        model: Model,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        key: bytes,
        parameters: dict[str, str],
    ) -> None:
        self._model = model
        self._reader = reader
        self._writer = writer
        self._key = key
        self._user = parameters.get("user", "")
        self._values = _variables(parameters) | {"mz_version": f"{model.release.version} ({model.release.build})"}
        self._prepared: dict[str, tuple[Column, ...] | None] = {}
        self._received: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue()
        self._news = asyncio.Event()
        self._cancelled = False
        self._left = False
        self._bytes_left: int | None = None

    def cancel(self) -> None:
        """End the running stream with 57014. If none runs, nothing happens."""
        self._cancelled = True
        self._news.set()

    async def run(self) -> None:
        """Serve the client until it leaves. Raises DisconnectedError and OSError."""
        reading = asyncio.create_task(self._read_ahead())
        try:
            if await self._login():
                await self._greet()
                await self._serve()
        finally:
            reading.cancel()

    async def _read_ahead(self) -> None:
        """Queue the client's messages, so that its end is noticed while a statement runs."""
        try:
            while True:
                kind = await self._reader.readexactly(1)
                length = int.from_bytes(await self._reader.readexactly(4), "big")
                self._received.put_nowait((kind, await self._reader.readexactly(length - 4)))
        except (asyncio.IncompleteReadError, OSError):
            self._received.put_nowait(None)
            self._left = True
            self._news.set()

    async def _login(self) -> bool:
        if self._model.passwords:
            await self._send(messages.authentication(3))
            received = await self._received.get()
            if received is None:
                return False
            if received[0] != b"p" or messages.strings(received[1]) != [self._model.passwords.get(self._user)]:
                await self._send(messages.error(errors.invalid_password()))
                return False
        await self._send(messages.authentication(0))
        return True

    async def _greet(self) -> None:
        cluster, release = self._values["cluster"], self._model.release
        missing = cluster not in self._model.clusters
        lines = [
            f"connected to Materialize {release.version}",
            *(f"  {line}" for line in release.place),
            f"  User: {self._user}",
            f"  Cluster: {cluster}{' (does not exist)' if missing else ''}",
            f"  Database: {self._values['database']}",
            f"  Schema: {self._values['search_path']}",
            f"  Session UUID: {uuid.uuid4()}",
            "",
            "Issue a SQL query to get started. Need help?",
            "  View documentation: https://materialize.com/s/docs",
            "  Join our Slack community: https://materialize.com/s/chat",
            "    ",
        ]
        parts = [messages.parameter_status(name, self._values[name.lower()]) for name in _REPORTED]
        parts += [messages.message(b"K", self._key), messages.notice("00000", "\n".join(lines))]
        if missing:
            hint = "Pick an extant cluster with SET CLUSTER = name. Run SHOW CLUSTERS to see available clusters."
            parts.append(messages.notice("MZ005", f'session default cluster "{cluster}" does not exist', hint))
        await self._send(b"".join(parts) + messages.READY)

    async def _serve(self) -> None:
        skipping = False  # after an error, everything up to the next Sync
        while (received := await self._received.get()) is not None and received[0] != b"X":
            kind, body = received
            try:
                if kind == b"Q":
                    await self._query(messages.strings(body)[0])
                elif kind == b"S":
                    skipping = False
                elif not skipping:
                    await self._send(self._prepare(kind, messages.strings(body)))
            except ServerError as failure:
                skipping = kind != b"Q"
                await self._send(messages.error(failure))
            if kind in b"QS":
                await self._send(messages.READY)

    def _prepare(self, kind: bytes, parts: list[str]) -> bytes:
        """The answer to a Parse or Describe. Raises ServerError."""
        name, *rest = parts
        if kind == b"P":
            self._model.statements.append(rest[0])
            found = statement(rest[0])
            self._prepared[name] = PREFIX + self._columns(found) if found.kind == "subscribe" else None
            return messages.PARSE_COMPLETE
        if kind == b"D" and name[0] == "S":
            columns = self._prepared[name[1:]]
            described = messages.NO_DATA if columns is None else messages.row_description(columns)
            return messages.NO_PARAMETERS + described
        raise errors.unknown_statement(f"a message {kind!r} with {parts}")

    async def _query(self, text: str) -> None:
        """Answer a statement. Raises ServerError."""
        self._model.statements.append(text)
        result = self._model.answer(text)
        if result is None:
            found = statement(text)
            if found.kind == "copy":
                await self._copy(found)
                return
            if found.kind == "set":
                await self._send(messages.parameter_status(*found.variable))
            result = self._result(found)
        head = messages.row_description(result.columns) if result.columns else b""
        rows = b"".join(map(messages.data_row, result.rows))
        await self._send(head + rows + messages.command_complete(result.tag))

    def _result(self, asked: Statement) -> Result:
        if asked.kind == "set":
            return Result(tag="SET")
        if asked.kind == "plan":
            return _document("Raw Plan", self._plan(asked))
        cluster = self._values["cluster"]
        if asked.kind == "insights":
            if cluster not in self._model.clusters:
                raise errors.unknown_cluster(cluster)
            number = self._model.clusters[cluster].number
            return _document("Plan Insights", {"cluster": {"name": cluster, "id": {"User": number}}})
        relation = self._relation(asked)
        self._model.cluster(cluster)
        if (failed := relation.history.error_at()) is not None:
            raise errors.row_error(failed.message)
        places = _places(asked, relation)
        rows = [tuple(row[at] for at in places) for row in relation.rows()[:1]]
        return Result(tag=f"SELECT {len(rows)}", columns=self._columns(asked), rows=rows)

    def _plan(self, asked: Statement) -> dict[str, object]:
        """Which object a SELECT would read. No privilege is needed."""
        if asked.id is None:
            found = self._model.find(asked.relation)
        else:
            same = [one for one in self._model.relations.values() if one.id == asked.id]
            if not same:
                raise errors.invalid_id(asked.id)
            found = same[0]
        number = int(found.id.removeprefix("u"))
        plan: dict[str, object] = {"Get": {"id": {"Global": {"User": number}}, "typ": {"column_types": []}}}
        if asked.columns is None:
            return plan
        return {"Project": {"input": plan, "outputs": list(_places(asked, found))}}

    async def _copy(self, asked: Statement) -> None:
        relation = self._relation(asked)
        cluster = self._model.cluster(self._values["cluster"])
        places = _places(asked, relation)
        as_of = choose_as_of(asked, relation, cluster, self._model)
        stream = Subscription(relation, cluster, places, as_of, snapshot=asked.snapshot)
        self._cancelled = False
        self._model.listeners.add(self._news)
        relation.streams.add(stream)
        self._bytes_left = self._model.cuts.popleft() if self._model.cuts else None
        try:
            await self._send(messages.copy_out(len(PREFIX) + len(places)))
            while not stream.ended:
                self._news.clear()
                if self._left:
                    raise DisconnectedError
                if self._cancelled:
                    raise errors.cancelled()
                if found := stream.poll():
                    await self._send(found)
                    self._model.moved.set()
                else:
                    await self._news.wait()
            await self._send(messages.COPY_DONE + messages.command_complete(f"COPY {stream.sent}"))
        except ServerError as failure:
            await self._send(messages.error(failure))  # here, so that a cut may fall into this message too
        finally:
            self._bytes_left = None
            relation.streams.discard(stream)
            self._model.listeners.discard(self._news)
            self._model.moved.set()

    def _relation(self, asked: Statement) -> Relation:
        return self._model.find(asked.relation, self._user)

    def _columns(self, asked: Statement) -> tuple[Column, ...]:
        relation = self._relation(asked)
        return tuple(relation.columns[at] for at in _places(asked, relation))

    async def _send(self, data: bytes) -> None:
        """Send bytes, with the faults that a test has asked for. Raises DisconnectedError, OSError."""
        cut = self._bytes_left is not None and len(data) >= self._bytes_left
        if self._bytes_left is not None:
            data = data[: self._bytes_left]
            self._bytes_left -= len(data)
        speed = self._model.bytes_per_second
        step = len(data) if speed is None else max(1, int(speed / 50))
        for at in range(0, len(data), step or 1):
            self._writer.write(data[at : at + step])
            await self._writer.drain()
            if speed is not None:
                await asyncio.sleep(step / speed)
        if cut:
            self._writer.close()
            raise DisconnectedError


def _variables(parameters: dict[str, str]) -> dict[str, str]:
    """Session variables by lower-case name, from a startup packet and its `options`."""
    asked = {name: value for name, value in parameters.items() if name not in ("user", "options", "client_encoding")}
    options = _OPTION.findall(parameters.get("options", ""))
    asked |= {name: re.sub(r"\\(.)", r"\1", value) for name, value in options}
    return {name.lower(): value for name, value in (_REPORTED | asked).items()}


def _places(asked: Statement, relation: Relation) -> tuple[int, ...]:
    """Positions of the columns that a statement selects. Raises ServerError if the relation does not have one."""
    names = [column.name for column in relation.columns]
    for name in asked.columns or ():
        if name not in names:
            raise errors.unknown_column(name)
    return tuple(names.index(name) for name in (names if asked.columns is None else asked.columns))


def _document(name: str, value: object) -> Result:
    rows: list[Row] = [(json.dumps(value, indent=2),)]
    return Result(tag="SELECT 1", columns=[column(name, "text")], rows=rows)
