"""The API of silences."""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tocsin.alert import Alert
from tocsin.ledger.base import Filter, Ledger
from tocsin.silences import AskingError, MatchersError, Silence, State, asked, parse
from tocsin.web import views
from tocsin.web.access import Password, credentials
from tocsin.web.answers import as_json, parameters, whole
from tocsin.web.base import Process, Rows
from tocsin.web.guard import Guard
from tocsin.web.matching import matched, warnings_of

_LIMIT = 100
_MOST = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SilencesApi:
    """The handlers."""

    process: Process
    guard: Guard
    new_id: Callable[[], str] = lambda: secrets.token_hex(6)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/silences", self.silences),
            web.post("/api/v1/silences", self.add),
            web.get("/api/v1/silences/preview", self.preview),
            web.get("/api/v1/silences/{id}", self.silence),
            web.post("/api/v1/silences/{id}/end", self.end),
        ]

    async def silences(self, request: web.Request) -> web.Response:
        """The silences that are kept, newest first."""
        query = parameters(request, "state", "limit")
        state, limit = query.get("state"), whole(query, "limit", _LIMIT, most=_MOST)
        if state is not None and state not in set(State):
            raise web.HTTPBadRequest(text=f"state is {state!r}; it must be one of {', '.join(State)}")
        ledger = self.process.ledger
        if ledger is None:
            return as_json({"silences": []})
        held, now = await ledger.held(), ledger.now()
        found = [one for one in await ledger.list_silences() if state in (None, one.state(now))]
        return as_json({"silences": [views.silence(one, held.get(one.id, {}), now) for one in found[:limit]]})

    async def silence(self, request: web.Request) -> web.Response:
        """One silence, with the notifications that it holds, newest first."""
        limit = whole(parameters(request, "limit"), "limit", _LIMIT, most=_MOST)
        ledger, found = await self._found(request)
        records = await ledger.find(Filter(silence=found.id, limit=limit))
        shown = [views.notification(record, self.process.alert(record.alert)) for record in records]
        return as_json({**await self._view(ledger, found), "notifications": shown})

    async def preview(self, request: web.Request) -> web.Response:
        """What these matchers match now: rows that fire, and pending notifications."""
        text = parameters(request, "matchers").get("matchers")
        if text is None:
            raise web.HTTPBadRequest(text="matchers is missing")
        try:
            matchers = parse(text)
        except MatchersError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        alerts = self._alerts()
        found = await matched(matchers, self._rows(alerts), self.process.ledger, alerts)
        return as_json(found.json(matchers))

    async def add(self, request: web.Request) -> web.Response:
        """Make a silence."""
        self.guard.demand_admin(request)
        parameters(request)
        ledger = self._ledger()
        try:
            wanted = asked(json.loads(await request.text()))
            made = wanted.model_copy(update={"by": wanted.by or _user(request)}).made(self.new_id(), ledger.now())
        except (AskingError, MatchersError) as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except (ValueError, LookupError, RecursionError):
            raise web.HTTPBadRequest(text="the body is not JSON") from None
        await ledger.silence(made)
        self.process.rescan()
        warnings = [*warnings_of(made.matchers, self._alerts())]
        return as_json({**await self._view(ledger, made), "warnings": warnings}, status=201)

    async def end(self, request: web.Request) -> web.Response:
        """End a silence now. What it holds is sent or dropped within a second."""
        self.guard.demand_admin(request)
        parameters(request)
        ledger, found = await self._found(request)
        if not await ledger.end_silence(found.id):
            raise web.HTTPConflict(text=f"the silence {found.id} has ended already")
        self.process.rescan()
        return as_json(await self._view(ledger, (await self._found(request))[1]))

    def _ledger(self) -> Ledger:
        if (ledger := self.process.ledger) is None:
            raise web.HTTPConflict(text="no channel of this configuration keeps notifications, so there is no silence")
        return ledger

    async def _found(self, request: web.Request) -> tuple[Ledger, Silence]:
        id_, ledger = request.match_info["id"], self.process.ledger
        found = [] if ledger is None else [one for one in await ledger.list_silences() if one.id == id_]
        if ledger is None or not found:
            raise web.HTTPNotFound(
                text=f"there is no silence {id_!r}; those that have ended are kept for a limited time"
            )
        return ledger, found[0]

    async def _view(self, ledger: Ledger, silence: Silence) -> dict[str, Any]:
        return views.silence(silence, (await ledger.held()).get(silence.id, {}), ledger.now())

    def _alerts(self) -> dict[str, Alert]:
        names = (status["name"] for status in self.process.alerts())
        return {name: alert for name in names if (alert := self.process.alert(name)) is not None}

    def _rows(self, alerts: Iterable[str]) -> Iterator[Rows]:
        return (rows for name in alerts if (rows := self.process.rows(name)) is not None)


def _user(request: web.Request) -> str:
    """The user who is logged in with a password."""
    given = credentials(request.headers.getall("Authorization", ()))
    return given.user if isinstance(given, Password) else ""
