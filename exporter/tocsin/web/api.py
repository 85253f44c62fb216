"""The JSON API under /api/v1."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeAlias

from aiohttp import HttpVersion11, web

from tocsin.errors import LedgerError, LedgerReason, SourceError
from tocsin.ledger.base import Filter, Ledger, Record, Status
from tocsin.model import Transition
from tocsin.sources.http import RefusedRequest
from tocsin.web import views
from tocsin.web.base import Process

_LIMIT = 100
_MOST = 1_000
_HEARTBEAT = 15.0
"""Seconds between comments on a quiet stream: proxies keep it open, and a reader that went away is noticed."""

Query: TypeAlias = Mapping[str, str]


class Api:
    """The handlers. Bad requests raise web.HTTPException with the reason as text; the application makes JSON of it."""

    def __init__(self, process: Process, *, admin: bool, version: str, clock: Callable[[], float]) -> None:
        self._process = process
        self._admin = admin
        self._version = version
        self._clock = clock
        self._closing = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        one = "/api/v1/notifications/{id}"
        return [
            web.get("/api/v1/status", self.status),
            web.get("/api/v1/alerts", self.alerts),
            web.get("/api/v1/channels", self.channels),
            web.get("/api/v1/firing", self.firing),
            web.get("/api/v1/notifications", self.notifications),
            web.get("/api/v1/dead-letters", self.dead_letters),
            web.get(one, self.notification),
            web.post(f"{one}/retry", self.retry),
            web.post(f"{one}/drop", self.drop),
            web.get("/api/v1/transitions", self.transitions),
            web.get("/api/v1/history/{alert}", self.history),
            web.post("/api/v1/events/{alert}", self.events, expect_handler=_answer_expect_later),
        ]

    async def close(self, _: web.Application) -> None:
        """End the open streams, so that the process can end."""
        self._closing.set()

    async def status(self, request: web.Request) -> web.Response:
        """Everything the status page needs except rows."""
        _query(request)
        reasons = list(self._process.ready())
        return _json(
            {
                "version": self._version,
                "time": views.wall_time(self._clock()),
                "admin": self._admin,
                "ready": not reasons,
                "reasons": reasons,
                "warnings": list(self._process.warnings()),
                "alerts": self._process.alerts(),
                "channels": self._process.channels(),
            }
        )

    async def alerts(self, request: web.Request) -> web.Response:
        _query(request)
        return _json({"alerts": self._process.alerts()})

    async def channels(self, request: web.Request) -> web.Response:
        _query(request)
        return _json({"channels": self._process.channels()})

    async def firing(self, request: web.Request) -> web.Response:
        """The rows that fire now: of one alert, or at most `limit` rows of each."""
        query = _query(request, "alert", "limit")
        limit = _number(query, "limit", _LIMIT, most=_MOST)
        names = [status["name"] for status in self._process.alerts()]
        wanted = query.get("alert")
        if wanted is not None and wanted not in names:
            raise web.HTTPNotFound(text=f"there is no alert {wanted!r}; there are: {', '.join(names) or 'none'}")
        rows: list[dict[str, Any]] = []
        truncated = []
        for name in names if wanted is None else (wanted,):
            found = list(islice(self._process.firing(name, limit + 1), limit + 1))
            if len(found) > limit:
                truncated.append(name)
            rows += found[:limit]
            await asyncio.sleep(0)  # many alerts with many rows must not hold the event loop
        return _json({"firing": rows, "truncated": truncated})

    async def notifications(self, request: web.Request) -> web.Response:
        query = _query(request, "status", "channel", "alert", "limit", "before")
        status = query.get("status")
        if status is not None and status not in set(Status):
            raise web.HTTPBadRequest(text=f"status is {status!r}; it must be one of {', '.join(Status)}")
        return await self._list(query, Status(status) if status else None)

    async def dead_letters(self, request: web.Request) -> web.Response:
        return await self._list(_query(request, "channel", "alert", "limit", "before"), Status.DEAD)

    async def _list(self, query: Query, status: Status | None) -> web.Response:
        limit = _number(query, "limit", _LIMIT, most=_MOST)
        records = await self._find(
            Filter(
                status=status,
                channel=query.get("channel"),
                alert=query.get("alert"),
                limit=limit,
                before=_number(query, "before", 0) or None,
            )
        )
        following = records[-1].seq if len(records) == limit else None
        return _json({"notifications": [self._notification(record) for record in records], "before": following})

    async def notification(self, request: web.Request) -> web.Response:
        record = await self._record(request)
        ledger = self._process.ledger
        attempts = [] if ledger is None else await ledger.attempts(record.id)
        return _json({**self._notification(record), "failed_attempts": [views.attempt(one) for one in attempts]})

    async def history(self, request: web.Request) -> web.Response:
        """The episodes of an alert, newest first, as far back as the ledger keeps notifications."""
        limit = _number(_query(request, "limit"), "limit", _LIMIT, most=_MOST)
        name, ledger = request.match_info["alert"], self._process.ledger
        episodes = [] if ledger is None else await ledger.episodes(name, limit)
        alert = self._process.alert(name)
        return _json({"episodes": [views.episode(one, alert) for one in episodes]})

    async def events(self, request: web.Request) -> web.Response:
        """Events for an alert of an `http` source. Answers once they are in the ledger."""
        _query(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            async with aclosing(_body(request)) as body:
                count = await self._process.receive(request.match_info["alert"], headers, body)
        except RefusedRequest as refused:
            status, error = refused.status, str(refused)
        except SourceError as failed:
            status, error = 503, str(failed)
        else:
            return _json({"events": count}, status=202)
        return _json({"error": error}, status=status, headers={"Retry-After": "1"} if status == 503 else {})

    async def retry(self, request: web.Request) -> web.Response:
        """Make a dead or dropped notification pending again."""
        demand_admin(request, admin=self._admin)
        id_ = (await self._record(request)).id
        if not await self._changed(self._ledger().retry, id_):
            raise web.HTTPConflict(text=f"notification {id_} is neither dead nor dropped, so there is nothing to retry")
        return _json({"retried": [id_]})

    async def drop(self, request: web.Request) -> web.Response:
        """Drop a dead or pending notification."""
        demand_admin(request, admin=self._admin)
        id_ = (await self._record(request)).id
        if not await self._changed(self._ledger().drop, id_):
            raise web.HTTPConflict(text=f"notification {id_} is neither dead nor pending, so there is nothing to drop")
        return _json({"dropped": [id_]})

    async def _changed(self, change: Callable[[list[str]], Awaitable[int]], id_: str) -> int:
        count = await change([id_])
        self._process.rescan()
        return count

    async def _record(self, request: web.Request) -> Record:
        """Return the notification that the path names."""
        _query(request)
        id_ = request.match_info["id"]
        records = await self._find(Filter(id=id_, limit=1))
        if not records:
            raise web.HTTPNotFound(text=f"there is no notification {id_!r}; delivered ones are kept for a limited time")
        return records[0]

    async def _find(self, wanted: Filter) -> list[Record]:
        ledger = self._process.ledger
        return [] if ledger is None else await ledger.find(wanted)

    def _ledger(self) -> Ledger:
        if self._process.ledger is None:
            raise LedgerError("there is no ledger: no alert notifies a channel", LedgerReason.UNREADABLE)
        return self._process.ledger

    def _notification(self, record: Record) -> dict[str, Any]:
        return views.notification(record, self._process.alert(record.alert))

    async def transitions(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the latest transitions, then each as it happens."""
        _query(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        with suppress(ConnectionResetError):  # the reader went away
            async with aclosing(self._process.feed.follow()) as stream, aclosing(self._sent(stream)) as events:
                async for event in events:
                    await response.write(event)
        return response

    async def _sent(self, stream: AsyncIterator[Transition]) -> AsyncGenerator[bytes, None]:
        """The stream as server-sent events, with comments while it is quiet; ends with the stream or the process."""
        yield b"retry: 2000\n\n"
        closing = asyncio.ensure_future(self._closing.wait())
        following = asyncio.ensure_future(anext(stream, None))
        try:
            while not closing.done():
                await asyncio.wait({closing, following}, timeout=_HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    yield b": nothing new\n\n"
                    continue
                found = following.result()
                if found is None:
                    return
                shown = views.transition(found, self._process.alert(found.alert))
                yield f"event: transition\ndata: {views.text(shown)}\n\n".encode()
                following = asyncio.ensure_future(anext(stream, None))
        finally:
            closing.cancel()
            following.cancel()
            await asyncio.wait({following})  # the stream can be closed only when no task awaits it


def demand_admin(request: web.Request, *, admin: bool) -> None:
    """Refuse a change unless `web.admin` is set, and one that another site's page sends through a user's browser."""
    if not admin:
        raise web.HTTPForbidden(text="changes over HTTP are switched off; set `web: {admin: true}` to allow them")
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        # Browsers set it. It also holds behind a proxy that changes the Host header.
        foreign = site not in {"same-origin", "none"}
    else:
        foreign = origin is not None and origin.partition("://")[2] != request.host
    if foreign:
        raise web.HTTPForbidden(text="requests from pages of other sites are refused")


def _query(request: web.Request, *known: str) -> Query:
    unknown = sorted(set(request.query) - set(known))
    if unknown:
        names = f"known: {', '.join(known)}" if known else "this path has none"
        raise web.HTTPBadRequest(text=f"unknown query parameter {', '.join(unknown)}; {names}")
    twice = sorted(name for name in known if len(request.query.getall(name, ())) > 1)
    if twice:
        raise web.HTTPBadRequest(text=f"query parameter {', '.join(twice)} is repeated; set it once")
    return request.query


def _number(query: Query, name: str, default: int, *, most: int = 2**63 - 1) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= most):
        raise web.HTTPBadRequest(text=f"{name} is {value!r}; it must be a whole number from 1 to {most}")
    return int(value)


async def _answer_expect_later(_: web.Request) -> None:
    """Leave the answer to `Expect: 100-continue` to `_body`, which knows when the body is wanted."""


async def _body(request: web.Request) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer itself, nothing is written yet
    try:
        while piece := await request.content.readany():
            yield piece
    except web.RequestPayloadError as error:
        # The rest of this connection cannot be parsed. aiohttp would look for the rest of the body there.
        request.content.feed_eof()
        request.protocol.close()
        raise web.HTTPBadRequest(text="the body cannot be read as its headers say it was sent") from error


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> web.Response:
    return web.Response(text=views.text(value), status=status, headers=headers, content_type="application/json")
