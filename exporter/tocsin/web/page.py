"""What only the status page asks: the stream of changes, a page of the rows that fire, and the timelines."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tocsin.silences import Matchers, MatchersError, first_match
from tocsin.silences.matchers import read
from tocsin.web.answers import RECONNECT, as_json, parameters, streamed, whole
from tocsin.web.base import Process
from tocsin.web.guard import Guard
from tocsin.web.live import Live
from tocsin.web.rows import SEVERITY, Listing, Query

_MOST = 1_000
_SORTS = ("started", "value", "alert", SEVERITY)
_WORDS = 20
"""Words of a search that are read."""
_HOURS = 24
_FORGET = 120.0
"""Seconds without a search after which the memory that searches need is freed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageApi:
    """The handlers."""

    process: Process
    guard: Guard
    live: Live
    listing: Listing
    version: str
    clock: Callable[[], float]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/live", self.stream),
            web.get("/api/v1/rows", self.rows),
            web.get("/api/v1/timeline", self.timeline),
        ]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: everything that the page shows except rows, then each change."""
        parameters(request)
        first = {"version": self.version, "admin": self.guard.may_change(request)}
        return await streamed(request, self.guard, self._changes(first))

    async def _changes(self, first: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        yield RECONNECT
        async with aclosing(self.live.follow(first=first)) as messages:
            async for message in messages:
                yield f"event: change\ndata: {message}\n\n".encode()

    async def rows(self, request: web.Request) -> web.Response:
        """The rows that fire now, searched, filtered and sorted, `limit` of them from `offset` on."""
        query = parameters(request, "q", "alert", "severity", "match", "sort", "offset", "limit")
        sort = query.get("sort", "-started")
        name = sort.removeprefix("-")
        if name not in _SORTS and not name.startswith("label:"):
            names = ", ".join((*_SORTS, "label:NAME"))
            raise web.HTTPBadRequest(text=f"sort is {sort!r}; it must be one of {names}, with - before it to descend")
        try:
            matchers = Matchers(tuple(read(query.get("match", ""))))
        except MatchersError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        wanted = Query(
            words=tuple(query.get("q", "").lower().split()[:_WORDS]),
            alert=query.get("alert"),
            severity=query.get("severity"),
            matches=matchers.match if matchers.each else None,
            sort=name,
            descending=sort.startswith("-"),
            offset=whole(query, "offset", 0, least=0),
            limit=whole(query, "limit", 100, most=_MOST),
        )
        found = await self.listing.find(wanted)
        return as_json({**found, "rows": self._silenced(found["rows"])})

    def _silenced(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add to each row the id of the silence that holds back its notifications now, or null."""
        ledger = self.process.ledger
        active = ledger.silences.active(ledger.now()) if ledger else ()
        labels = [{**row["labels"], "alertname": row["alert"]} for row in rows]
        silences = [first_match(active, one) for one in labels]
        return [{**row, "silence": one.id if one else None} for row, one in zip(rows, silences, strict=True)]

    async def timeline(self, request: web.Request) -> web.Response:
        """The last hours of each alert and channel."""
        hours = whole(parameters(request, "hours"), "hours", 6, most=_HOURS)
        return as_json(self.live.timelines.shown(self.clock(), hours))

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Keep the live state up to date as long as the application runs."""
        tasks = [asyncio.create_task(self.live.run(), name="live"), asyncio.create_task(self._forget(), name="listing")]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(_FORGET)
            self.listing.forget_unused()
