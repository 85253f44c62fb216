"""The JSON API under /api/v1."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aiohttp import HttpVersion11, web

from tocsin.errors import Reason, SourceError
from tocsin.explain.keys import Asked, UnknownColumnError
from tocsin.ledger.base import SILENCED, Filter, Ledger, Record, Status
from tocsin.model import Transition
from tocsin.sources.http import RefusedRequest
from tocsin.web import explanations, views
from tocsin.web.answers import RECONNECT, Query, as_json, no_such_alert, parameters, streamed, whole
from tocsin.web.base import Process
from tocsin.web.guard import Guard
from tocsin.web.readers import Readers

_LIMIT = 100
_MOST = 1_000
_HEARTBEAT = 15.0
"""Seconds between comments on a quiet stream: proxies keep it open, and a reader that went away is noticed."""
_BODY = 30.0
"""Seconds in which a body has to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The handlers. Bad requests raise web.HTTPException with the reason as text; the application makes JSON of it."""

    process: Process
    guard: Guard
    readers: Readers
    version: str
    since: float
    """When the process began to listen."""
    clock: Callable[[], float]

    def routes(self) -> list[web.RouteDef]:
        one = "/api/v1/notifications/{id}"
        return [
            web.get("/api/v1/status", self.status),
            web.get("/api/v1/alerts", self.alerts),
            web.get("/api/v1/channels", self.channels),
            web.get("/api/v1/instances", self.instances),
            web.get("/api/v1/firing", self.firing),
            web.get("/api/v1/notifications", self.notifications),
            web.get("/api/v1/dead-letters", self.dead_letters),
            web.get(one, self.notification),
            web.post(f"{one}/retry", self.retry),
            web.post(f"{one}/drop", self.drop),
            web.post("/api/v1/dead-letters/retry", self.retry_all),
            web.post("/api/v1/dead-letters/drop", self.drop_all),
            web.get("/api/v1/explain/{alert}", self.explain),
            web.get("/api/v1/transitions", self.transitions),
            web.get("/api/v1/history/{alert}", self.history),
            web.post("/api/v1/events/{alert}", self.events, expect_handler=_answer_expect_later),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """Everything the status page needs except rows."""
        parameters(request)
        reasons = list(self.process.ready())
        return as_json(
            {
                "version": self.version,
                "time": views.wall_time(self.clock()),
                "admin": self.guard.may_change(request),
                "ready": not reasons,
                "reasons": reasons,
                "warnings": list(self.process.warnings()),
                "alerts": self.process.alerts(),
                "channels": self.process.channels(),
                "instances": self.process.instances(),
                "since": views.wall_time(self.since),
                "configuration": self.process.configuration(),
                "scrapes": self.readers.shown(),
            }
        )

    async def alerts(self, request: web.Request) -> web.Response:
        parameters(request)
        return as_json({"alerts": self.process.alerts()})

    async def channels(self, request: web.Request) -> web.Response:
        parameters(request)
        return as_json({"channels": self.process.channels()})

    async def instances(self, request: web.Request) -> web.Response:
        parameters(request)
        return as_json({"instances": self.process.instances()})

    async def firing(self, request: web.Request) -> web.Response:
        """The rows that fire now: of one alert, or at most `limit` rows of each."""
        query = parameters(request, "alert", "limit")
        limit = whole(query, "limit", _LIMIT, most=_MOST)
        names = [status["name"] for status in self.process.alerts()]
        wanted = query.get("alert")
        if wanted is not None and wanted not in names:
            raise no_such_alert(wanted, names)
        rows: list[dict[str, Any]] = []
        truncated = []
        for name in names if wanted is None else (wanted,):
            found = list(islice(self.process.firing(name, limit + 1), limit + 1))
            if len(found) > limit:
                truncated.append(name)
            rows += found[:limit]
            await asyncio.sleep(0)  # many alerts with many rows must not hold the event loop
        return as_json({"firing": rows, "truncated": truncated})

    async def notifications(self, request: web.Request) -> web.Response:
        query = parameters(request, "status", "channel", "alert", "reason", "limit", "before")
        status = query.get("status")
        if status is not None and status not in set(Status):
            raise web.HTTPBadRequest(text=f"status is {status!r}; it must be one of {', '.join(Status)}")
        return await self._list(query, Status(status) if status else None)

    async def dead_letters(self, request: web.Request) -> web.Response:
        return await self._list(parameters(request, "channel", "alert", "reason", "limit", "before"), Status.DEAD)

    async def _list(self, query: Query, status: Status | None) -> web.Response:
        limit = whole(query, "limit", _LIMIT, most=_MOST)
        before = whole(query, "before", 0) or None
        wanted = _filter(query, status, limit=limit, before=before)
        ledger = self.process.ledger
        records = [] if ledger is None else await ledger.find(wanted)
        following = records[-1].seq if len(records) == limit else None
        return as_json({"notifications": [self._notification(record) for record in records], "before": following})

    async def notification(self, request: web.Request) -> web.Response:
        """One notification: the transition, the route, the request, each attempt with its answer, and what is next."""
        ledger, record = await self._record(request)
        attempts = await ledger.attempts(record.id)
        life, route = await self.process.life(record)
        shown = explanations.life(life, self.process.alert(record.alert))
        failed = [views.attempt(one) for one in attempts]
        return as_json({**shown, "route": explanations.route(route), "failed_attempts": failed})

    async def explain(self, request: web.Request) -> web.Response:
        """Why a key fires or not, and what was sent of it."""
        values = request.query.getall("key", [])
        if unknown := sorted({*request.query} - {"key", "fingerprint"}):
            raise web.HTTPBadRequest(text=f"unknown query parameter {', '.join(unknown)}; known: key, fingerprint")
        name = request.match_info["alert"]
        alert = self.process.alert(name)
        if alert is None:
            raise no_such_alert(name, [one["name"] for one in self.process.alerts()])
        try:
            found = await self.process.explain(
                name, Asked(values=tuple(values), fingerprint=request.query.get("fingerprint"))
            )
        except UnknownColumnError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        return as_json(explanations.explanation(found, alert))

    async def history(self, request: web.Request) -> web.Response:
        """The episodes of an alert, newest first, as far back as the ledger keeps notifications."""
        limit = whole(parameters(request, "limit"), "limit", _LIMIT, most=_MOST)
        name, ledger = request.match_info["alert"], self.process.ledger
        episodes = [] if ledger is None else await ledger.episodes(name, limit)
        alert = self.process.alert(name)
        return as_json({"episodes": [views.episode(one, alert) for one in episodes]})

    async def events(self, request: web.Request) -> web.Response:
        """Events for an alert of an `http` source. Answers once they are in the ledger."""
        parameters(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            async with aclosing(_body(request)) as body:
                answer = await self.process.receive(request.match_info["alert"], headers, body)
        except RefusedRequest as refused:
            status, error = refused.status, str(refused)
        except SourceError as failed:
            status, error = 503, str(failed)
        else:
            if answer.body is None:
                return web.Response(status=answer.status)
            return as_json(answer.body, status=answer.status)
        return as_json({"error": error}, status=status, headers={"Retry-After": "1"} if status == 503 else {})

    async def retry(self, request: web.Request) -> web.Response:
        """Make a dead or dropped notification pending again."""
        return await self._change(request, lambda ledger, id_: ledger.retry([id_]), "retry", "dead nor dropped")

    async def drop(self, request: web.Request) -> web.Response:
        """Drop a dead or pending notification."""
        return await self._change(request, lambda ledger, id_: ledger.drop([id_]), "drop", "dead nor pending")

    async def retry_all(self, request: web.Request) -> web.Response:
        """Make the dead letters that a filter finds pending again."""
        return await self._change_all(request, lambda ledger, ids: ledger.retry(ids), "retried")

    async def drop_all(self, request: web.Request) -> web.Response:
        """Drop the dead letters that a filter finds."""
        return await self._change_all(request, lambda ledger, ids: ledger.drop(ids), "dropped")

    async def _change_all(
        self, request: web.Request, change: Callable[[Ledger, Sequence[str]], Awaitable[int]], done: str
    ) -> web.Response:
        self.guard.demand_admin(request)
        query = parameters(request, "channel", "alert", "reason")
        ledger, count = self.process.ledger, 0
        if ledger is not None:
            before: int | None = None
            # In steps, so that batches do not wait long.
            while records := await ledger.find(_filter(query, Status.DEAD, limit=_MOST, before=before)):
                before = records[-1].seq
                count += await change(ledger, [record.id for record in records])
            self.process.rescan()
        return as_json({done: count})

    async def _change(
        self, request: web.Request, change: Callable[[Ledger, str], Awaitable[int]], verb: str, wanted: str
    ) -> web.Response:
        self.guard.demand_admin(request)
        ledger, record = await self._record(request)
        count = await change(ledger, record.id)
        self.process.rescan()
        if not count:
            raise web.HTTPConflict(text=f"notification {record.id} is neither {wanted}, so there is nothing to {verb}")
        return as_json({{"retry": "retried", "drop": "dropped"}[verb]: [record.id]})

    async def _record(self, request: web.Request) -> tuple[Ledger, Record]:
        """The ledger, and the notification that the path names."""
        parameters(request)
        id_, ledger = request.match_info["id"], self.process.ledger
        records = [] if ledger is None else await ledger.find(Filter(id=id_, limit=1))
        if ledger is None or not records:
            raise web.HTTPNotFound(text=f"there is no notification {id_!r}; delivered ones are kept for a limited time")
        return ledger, records[0]

    def _notification(self, record: Record) -> dict[str, Any]:
        return views.notification(record, self.process.alert(record.alert))

    async def transitions(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the latest transitions, then each as it happens."""
        parameters(request)
        return await streamed(request, self.guard, self._events())

    async def _events(self) -> AsyncGenerator[bytes, None]:
        yield RECONNECT
        async with aclosing(self.process.feed.follow(quiet=_HEARTBEAT)) as stream:
            async for found in stream:
                yield b": nothing new\n\n" if found is None else self._event(found)

    def _event(self, found: Transition) -> bytes:
        shown = views.transition(found, self.process.alert(found.alert))
        return f"event: transition\ndata: {views.text(shown)}\n\n".encode()


def _filter(query: Query, status: Status | None, *, limit: int, before: int | None) -> Filter:
    reason = query.get("reason")
    known = [*map(str, Reason), SILENCED]
    if reason is not None and reason not in known:
        raise web.HTTPBadRequest(text=f"reason is {reason!r}; it must be one of {', '.join(known)}")
    return Filter(
        status=status,
        channel=query.get("channel"),
        alert=query.get("alert"),
        reason=reason,
        limit=limit,
        before=before,
    )


async def _within(end: float, reading: Awaitable[bytes]) -> bytes:
    async with asyncio.timeout_at(end):
        return await reading


async def _answer_expect_later(_: web.Request) -> None:
    """Leave the answer to `Expect: 100-continue` to `_body`, which knows when the body is wanted."""


async def _body(request: web.Request) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer itself, nothing is written yet
    end = asyncio.get_running_loop().time() + _BODY
    try:
        while piece := await _within(end, request.content.readany()):
            yield piece
    except TimeoutError:
        request.protocol.close()
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {_BODY:g} s") from None
    except web.RequestPayloadError as error:
        # The rest of this connection cannot be parsed. aiohttp would look for the rest of the body there.
        request.content.feed_eof()
        request.protocol.close()
        raise web.HTTPBadRequest(text="the body cannot be read as its headers say it was sent") from error
