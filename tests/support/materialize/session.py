"""One connection: the login, and the statements that Tocsin sends, recognised by pattern. Any other is refused."""

import asyncio
import json
import re
from typing import TYPE_CHECKING, Literal

from support.materialize import errors, protocol
from support.materialize.errors import ServerError
from support.materialize.protocol import PREFIX, Column, Result, column
from support.materialize.relation import Cluster, Relation, Stream

if TYPE_CHECKING:
    from support.materialize.server import MaterializeDouble

Name = tuple[str, ...]
"""Database, schema and name; or only the last parts of that."""

_PART = r'(?:"(?:[^"]|"")*"|[A-Za-z_][\w$]*)'
_NAME = rf"{_PART}(?:\.{_PART})*"
_TARGET = (
    rf"(?:(?P<relation>{_NAME})|\(SELECT (?P<columns>\*|{_PART}(?:, ?{_PART})*) FROM (?P<queried>{_NAME})\s*\)"
    rf"|\[(?P<id>u\d+) AS {_NAME}\])"
)
_SUBSCRIBE = rf"SUBSCRIBE {_TARGET} WITH \(PROGRESS(?:, SNAPSHOT = false)?\)(?: AS OF AT LEAST (?P<as_of>\d+))?"

Kind = Literal["subscribe", "copy", "trial", "sample", "plan", "insights", "set"]

_PATTERNS: dict[Kind, str] = {
    "subscribe": _SUBSCRIBE,
    "copy": rf"COPY \({_SUBSCRIBE}\) TO STDOUT",
    "trial": rf"{_SUBSCRIBE} UP TO 1",
    "sample": rf"SELECT \* FROM {_TARGET} LIMIT (?P<limit>[01])",
    "plan": rf"EXPLAIN RAW PLAN AS JSON FOR SELECT \* FROM {_TARGET}",
    "insights": r"EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1 \+ 1",
    "set": rf"""SET (?P<variable>{_PART}) = ['"]?(?P<value>[^'"]*)['"]?""",
}
"""`plan` asks which objects names refer to, `insights` which cluster runs statements."""

_OPTION = re.compile(r"(?:--|-c\s*)([A-Za-z_]+)=((?:\\.|\S)*)")

_REPORTED = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "server_version": "9.5.0",
    "standard_conforming_strings": "on",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
}
"""Session variables that the server reports, with their defaults."""


class DisconnectedError(Exception):
    """The client went away, or a fault closed its connection."""


def relation_name(text: str) -> Name:
    """The parts of a name as SQL writes it, for example `public."Orders"`."""
    parts = re.findall(_PART, text)
    return tuple(part[1:-1].replace('""', '"') if part[0] == '"' else part.lower() for part in parts)


def _recognised(text: str) -> tuple[Kind, dict[str, str | None]]:
    """The kind of a statement, and the groups of its pattern. Raises ServerError, which quotes one that is unknown."""
    for kind, pattern in _PATTERNS.items():
        if match := re.fullmatch(pattern, text):
            return kind, match.groupdict()
    raise errors.unknown_statement(text)


class Session:
    """A connection after its startup packet."""

    def __init__(
        self,
        server: "MaterializeDouble",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        parameters: dict[str, str],
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._user = parameters.get("user", "")
        options = _OPTION.findall(parameters.get("options", ""))
        asked = parameters | {name: re.sub(r"\\(.)", r"\1", value) for name, value in options}
        self._asked = {name.lower(): value for name, value in asked.items()}
        self._described: tuple[Column, ...] | None = None
        self._received: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue()
        self._news = asyncio.Event()
        self._left = False
        self._bytes_left: int | None = None

    async def run(self) -> None:
        """Serve the client until it leaves. Raises DisconnectedError and OSError."""
        reading = asyncio.create_task(self._read_ahead())
        try:
            if await self._login():
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
        if self._server.passwords:
            await self._send(protocol.authentication(3))
            received = await self._received.get()
            if received is None:
                return False
            if received[0] != b"p" or protocol.strings(received[1]) != [self._server.passwords.get(self._user)]:
                await self._send(protocol.error(errors.invalid_password()))
                return False
        values = {name: self._asked.get(name.lower(), default) for name, default in _REPORTED.items()}
        values |= {"mz_version": f"{self._server.release}.0-dev.0"}
        statuses = [protocol.parameter_status(name, value) for name, value in values.items()]
        await self._send(protocol.authentication(0) + b"".join(statuses) + protocol.READY)
        return True

    async def _serve(self) -> None:
        skipping = False  # after an error, everything up to the next Sync
        while (received := await self._received.get()) is not None and received[0] != b"X":
            kind, body = received
            try:
                if kind == b"Q":
                    await self._query(protocol.strings(body)[0])
                elif kind == b"S":
                    skipping = False
                elif not skipping:
                    await self._send(self._prepare(kind, protocol.strings(body)))
            except ServerError as failure:
                skipping = kind != b"Q"
                await self._send(protocol.error(failure))
            if kind in b"QS":
                await self._send(protocol.READY)

    def _prepare(self, kind: bytes, parts: list[str]) -> bytes:
        """The answer to a Parse or Describe of the unnamed statement. Raises ServerError."""
        if kind == b"P":
            self._server.statements.append(parts[1])
            statement, asked = _recognised(parts[1])
            # Since v26.39 a description needs no privilege.
            relation, places = self._selected(asked, self._user if self._server.release == "v26.8" else "")
            columns = tuple(relation.columns[at] for at in places)
            self._described = (*PREFIX, *columns) if statement == "subscribe" else None
            return protocol.PARSE_COMPLETE
        if kind == b"D":
            described = self._described
            return protocol.NO_PARAMETERS + (
                protocol.NO_DATA if described is None else protocol.row_description(described)
            )
        raise errors.unknown_statement(f"a message {kind!r} with {parts}")

    async def _query(self, text: str) -> None:
        """Answer a statement. Raises ServerError."""
        self._server.statements.append(text)
        result = self._server.answer(text)
        if result is None:
            kind, asked = _recognised(text)
            if kind == "copy":
                await self._copy(asked)
                return
            if kind == "set":
                await self._send(protocol.parameter_status((asked["variable"] or "").strip('"'), asked["value"] or ""))
            result = self._result(kind, asked)
        await self._send(result.messages())

    def _result(self, kind: Kind, asked: dict[str, str | None]) -> Result:
        if kind == "set":
            return Result(tag="SET")
        if kind == "plan":
            return _document({"Get": {"id": {"Global": {"User": self._object_number(asked)}}}})
        cluster = self._server.cluster(self._cluster)
        if kind == "insights":
            return _document({"cluster": {"name": cluster.name, "id": {"User": cluster.number}}})
        relation, places = self._selected(asked, self._user)
        if kind == "trial":
            raise relation.refused or errors.bounds_are_crossed(relation.upper - 1)
        wanted = int(asked["limit"] or 0)
        # A query for no rows is answered from the plan.
        if wanted:
            _running(cluster)
            if (failed := relation.error_at(relation.upper)) is not None:
                raise failed
        rows = [tuple(row[at] for at in places) for row in relation.rows()[:wanted]]
        return Result(tag=f"SELECT {len(rows)}", columns=[relation.columns[at] for at in places], rows=rows)

    def _object_number(self, asked: dict[str, str | None]) -> int:
        """Which object a SELECT would read. No privilege is needed."""
        wanted = asked["id"] or self._server.find(_target(asked)).id
        if all(one.id != wanted for one in self._server.relations.values()):
            raise errors.invalid_id(wanted)
        return int(wanted.removeprefix("u"))

    @property
    def _cluster(self) -> str:
        return self._asked.get("cluster") or "quickstart"

    def _selected(self, asked: dict[str, str | None], role: str) -> tuple[Relation, tuple[int, ...]]:
        """The relation that a statement reads, and the positions of the columns that it selects. `role`: whose
        privileges count."""
        relation = self._server.find(_target(asked), role)
        names = [one.name for one in relation.columns]
        wanted = names if asked["columns"] in (None, "*") else relation_name(asked["columns"] or "")
        return relation, tuple(map(names.index, wanted))

    async def _copy(self, asked: dict[str, str | None]) -> None:
        relation, places = self._selected(asked, self._user)
        cluster = _running(self._server.cluster(self._cluster))
        if relation.refused is not None:
            raise relation.refused
        stream = Stream(relation, cluster, places, self._as_of(asked["as_of"], relation, cluster))
        self._server.listeners.add(self._news)
        relation.streams.add(stream)
        self._bytes_left = self._server.cuts.popleft() if self._server.cuts else None
        try:
            await self._send(protocol.copy_out(len(PREFIX) + len(places)))
            while not stream.ended:
                self._news.clear()
                if self._left:
                    raise DisconnectedError
                if found := stream.poll():
                    await self._send(found)
                else:
                    await self._news.wait()
            await self._send(protocol.COPY_DONE + protocol.command_complete(f"COPY {stream.sent}"))
        except ServerError as failure:
            await self._send(protocol.error(failure))  # here, so that a cut may fall into this message too
        finally:
            self._bytes_left = None
            relation.streams.discard(stream)
            self._server.listeners.discard(self._news)

    def _as_of(self, at_least: str | None, relation: Relation, cluster: Cluster) -> int:
        """The timestamp at which a subscription starts: the last closed time, or with `AS OF AT LEAST t` the oldest
        readable time from t on, never "now"."""
        if at_least is not None:
            return max(relation.since, int(at_least))
        if relation.constant:
            return relation.as_of
        if self._server.ahead:
            return self._server.now() + self._server.ahead
        latest = relation.upper - 1
        return max(latest, self._server.now()) if relation.silent or cluster.silent else latest

    async def _send(self, data: bytes) -> None:
        """Send bytes, with the faults that a test has asked for. Raises DisconnectedError, OSError."""
        cut = self._bytes_left is not None and len(data) >= self._bytes_left
        if self._bytes_left is not None:
            data = data[: self._bytes_left]
            self._bytes_left -= len(data)
        speed = self._server.bytes_per_second
        step = len(data) if speed is None else max(1, int(speed / 50))
        for at in range(0, len(data), step or 1):
            self._writer.write(data[at : at + step])
            await self._writer.drain()
            if speed is not None:
                await asyncio.sleep(step / speed)
        if cut:
            self._writer.close()
            raise DisconnectedError


def _target(asked: dict[str, str | None]) -> Name:
    return relation_name(asked["queried"] or asked["relation"] or "")


def _running(cluster: Cluster) -> Cluster:
    """The cluster itself. Raises ServerError if it has no replica."""
    if not cluster.replicas:
        raise errors.no_replica(cluster.name)
    return cluster


def _document(value: object) -> Result:
    return Result(tag="SELECT 1", columns=[column("plan", "text")], rows=[(json.dumps(value, indent=2),)])
