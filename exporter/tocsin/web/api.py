"""The JSON interface under /api/v1."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from itertools import islice
from typing import Any, TypeAlias

from aiohttp import HttpVersion11, web

from tocsin.ledger.base import Attempt, Status
from tocsin.web.encoding import answer, moment, text
from tocsin.web.overview import EpisodeRecord, Overview, TransitionRecord

_LIMIT = 100
_MOST = 1_000
_HEARTBEAT = 15.0
"""Seconds between signs of life on a quiet stream, so that proxies keep it and a reader that went away is noticed."""

Query: TypeAlias = Mapping[str, str]


class Api:
    """The handlers. Bad requests raise web.HTTPException with the reason as text; the application makes JSON of it."""

    def __init__(self, overview: Overview, *, admin: bool, version: str, clock: Callable[[], float]) -> None:
        self._overview = overview
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
            web.post("/api/v1/events/{alert}", self.events, expect_handler=_when_read),
        ]

    async def close(self, _: web.Application) -> None:
        """End the open streams, so that the process can end."""
        self._closing.set()

    async def status(self, request: web.Request) -> web.Response:
        """Everything the status page needs but the rows."""
        _query(request)
        reasons = list(self._overview.ready())
        return _json(
            {
                "version": self._version,
                "time": moment(self._clock()),
                "admin": self._admin,
                "ready": not reasons,
                "reasons": reasons,
                "warnings": list(self._overview.warnings()),
                "alerts": [answer(alert) for alert in self._overview.alerts()],
                "channels": [answer(channel) for channel in self._overview.channels()],
            }
        )

    async def alerts(self, request: web.Request) -> web.Response:
        _query(request)
        return _json({"alerts": [answer(alert) for alert in self._overview.alerts()]})

    async def channels(self, request: web.Request) -> web.Response:
        _query(request)
        return _json({"channels": [answer(channel) for channel in self._overview.channels()]})

    async def firing(self, request: web.Request) -> web.Response:
        """What is in the views now: of one alert, or at most `limit` rows of each."""
        query = _query(request, "alert", "limit")
        limit = _number(query, "limit", _LIMIT, most=_MOST)
        statuses = {status.name: status for status in self._overview.alerts()}
        wanted = query.get("alert")
        if wanted is not None and wanted not in statuses:
            raise web.HTTPNotFound(text=f"there is no alert {wanted!r}; there are: {', '.join(statuses) or 'none'}")
        rows: list[dict[str, Any]] = []
        truncated = []
        for name in statuses if wanted is None else (wanted,):
            found = [answer(row) for row in islice(self._overview.firing(name, limit + 1), limit + 1)]
            if len(found) > limit:
                truncated.append(name)
            rows += found[:limit]
            await asyncio.sleep(0)  # many alerts with many rows must not hold the loop
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
        records = await self._overview.notifications(
            status=status,
            channel=query.get("channel"),
            alert=query.get("alert"),
            limit=limit,
            before=_number(query, "before", 0) or None,
        )
        following = records[-1].seq if len(records) == limit else None
        return _json({"notifications": [answer(record) for record in records], "before": following})

    async def notification(self, request: web.Request) -> web.Response:
        _query(request)
        id_ = request.match_info["id"]
        record = await self._overview.notification(id_)
        if record is None:
            raise web.HTTPNotFound(text=f"there is no notification {id_!r}; delivered ones are kept for a limited time")
        attempts = [_attempt(one) for one in await self._overview.attempts(id_)]
        return _json({**answer(record), "failed_attempts": attempts})

    async def history(self, request: web.Request) -> web.Response:
        """The episodes of an alert, newest first, as far back as the ledger remembers."""
        query = _query(request, "limit")
        limit = _number(query, "limit", _LIMIT, most=_MOST)
        episodes = await self._overview.episodes(request.match_info["alert"], limit)
        return _json({"episodes": [_episode(one) for one in episodes]})

    async def events(self, request: web.Request) -> web.Response:
        """Events for an alert that takes them over HTTP. Answered once they are safe."""
        _query(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with aclosing(_body(request)) as body:
            receipt = await self._overview.receive(request.match_info["alert"], headers, body)
        if receipt.error:
            waiting = {"Retry-After": "1"} if receipt.status == 503 else {}
            value = text({"error": receipt.error})
            return web.Response(status=receipt.status, text=value, content_type="application/json", headers=waiting)
        return web.Response(
            status=receipt.status, text=text({"events": receipt.events}), content_type="application/json"
        )

    async def retry(self, request: web.Request) -> web.Response:
        """Only a dead or dropped notification can be tried again."""
        record = await self._record(request)
        if not await self._overview.retry([record]):
            raise web.HTTPConflict(
                text=f"notification {record} is neither dead nor dropped, so there is nothing to retry"
            )
        return _json({"retried": [record]})

    async def drop(self, request: web.Request) -> web.Response:
        """Only a dead or pending notification can be dropped."""
        record = await self._record(request)
        if not await self._overview.drop([record]):
            raise web.HTTPConflict(
                text=f"notification {record} is neither dead nor pending, so there is nothing to drop"
            )
        return _json({"dropped": [record]})

    async def _record(self, request: web.Request) -> str:
        _query(request)
        demand_admin(request, admin=self._admin)
        id_ = request.match_info["id"]
        if await self._overview.notification(id_) is None:
            raise web.HTTPNotFound(text=f"there is no notification {id_!r}")
        return id_

    async def transitions(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the latest transitions, then each as it happens."""
        _query(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        with suppress(ConnectionResetError):  # the reader went away
            async with aclosing(self._overview.transitions()) as stream, aclosing(self._events(stream)) as events:
                async for event in events:
                    await response.write(event)
        return response

    async def _events(self, stream: AsyncIterator[TransitionRecord]) -> AsyncGenerator[bytes, None]:
        """The stream as events, with a comment where nothing happens for long; ends with the stream or the process."""
        yield b"retry: 2000\n\n"
        closing = asyncio.ensure_future(self._closing.wait())
        following = asyncio.ensure_future(anext(stream, None))
        try:
            while not closing.done():
                await asyncio.wait({closing, following}, timeout=_HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    yield b": nothing new\n\n"
                    continue
                record = following.result()
                if record is None:
                    return
                yield f"event: transition\ndata: {text(answer(record))}\n\n".encode()
                following = asyncio.ensure_future(anext(stream, None))
        finally:
            closing.cancel()
            following.cancel()
            await asyncio.wait({following})  # the stream can be closed only when nobody waits for it


def demand_admin(request: web.Request, *, admin: bool) -> None:
    """Refuse an order that nobody may give, or that another site's page gives in the name of a person's browser."""
    if not admin:
        raise web.HTTPForbidden(text="orders are switched off; `web: {admin: true}` in the configuration allows them")
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        # Browsers say it themselves; this also holds behind a proxy that changes the Host.
        foreign = site not in {"same-origin", "none"}
    else:
        foreign = origin is not None and origin.partition("://")[2] != request.host
    if foreign:
        raise web.HTTPForbidden(text="orders are not taken from the pages of other sites")


def _query(request: web.Request, *known: str) -> Query:
    unknown = sorted(set(request.query) - set(known))
    if unknown:
        names = f"the known ones are {', '.join(known)}" if known else "there are none here"
        raise web.HTTPBadRequest(text=f"unknown query parameter {', '.join(unknown)}; {names}")
    twice = sorted(name for name in known if len(request.query.getall(name, ())) > 1)
    if twice:
        raise web.HTTPBadRequest(text=f"query parameter {', '.join(twice)} is given more than once")
    return request.query


def _number(query: Query, name: str, default: int, *, most: int = 2**63 - 1) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= most):
        raise web.HTTPBadRequest(text=f"{name} is {value!r}; it must be a whole number from 1 to {most}")
    return int(value)


async def _when_read(_: web.Request) -> None:
    """Whoever sends `Expect: 100-continue` is answered by `_body`, once the body is wanted."""


async def _body(request: web.Request) -> AsyncGenerator[bytes, None]:
    """What is sent, as it arrives."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer itself, nothing is written yet
    try:
        while piece := await request.content.readany():
            yield piece
    except web.RequestPayloadError as error:
        # Nothing that follows on this connection can be made out. aiohttp would look for the rest of the body there.
        request.content.feed_eof()
        request.protocol.close()
        raise web.HTTPBadRequest(text="the body cannot be read as its headers say it was sent") from error


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {"at": moment(attempt.at), "reason": attempt.reason, "detail": attempt.detail}


def _episode(episode: EpisodeRecord) -> dict[str, Any]:
    ended = episode.ended_at
    return {
        **answer(episode),
        "seconds": None if ended is None else (ended - episode.started_at) / 1000,
        "deliveries": [answer(one) for one in episode.deliveries],
    }


def _json(value: object) -> web.Response:
    return web.Response(text=text(value), content_type="application/json")
