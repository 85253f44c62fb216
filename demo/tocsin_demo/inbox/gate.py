"""What a request to Novu's API passes before it reaches the engine, in Novu's order: size, JSON, key, rate limit,
idempotency.

Ordered faults come before all that, like those of a proxy or a bad network, or after it, like those of a slow or dying
server.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from aiohttp import web

from tocsin_demo.inbox import checks
from tocsin_demo.inbox.answers import Answer, Outcome, Problem, RejectedError, internal_error
from tocsin_demo.inbox.faults import Fault, event_answer
from tocsin_demo.inbox.inbox import LOGGED_BODY, Inbox, Logged
from tocsin_demo.inbox.release import UNAVAILABLE, newer

EVENTS_LIMIT = 20 * 1024 * 1024
OTHER_LIMIT = 100 * 1024
GARBAGE = b'{"data": {"acknowledged": tr'
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as the handlers see it."""

    name: str
    """The variable part of the path, if any."""
    query: Mapping[str, str]
    body: Any
    size: int
    now: float
    fault: Fault | None


Handler: TypeAlias = Callable[[Inbox, Call], Outcome]


def guarded(inbox: Inbox, handler: Handler, *, category: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler behind the gate, for aiohttp. `category`: of the rate limit; empty for what is not part of Novu."""

    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        inbox.engine.counters.requests += 1
        fault = inbox.faults.next(request.method, request.path)
        passage = _Passage(inbox, request, raw, fault, category)
        response, status = await passage.answer(handler)
        inbox.log(
            Logged(
                at=inbox.clock(),
                method=request.method,
                path=request.raw_path,
                status=status,
                idempotency_key=request.headers.get("Idempotency-Key", ""),
                replayed=passage.replayed,
                fault=fault.kind if fault else "",
                body=raw if len(raw) <= LOGGED_BODY else b"",
            )
        )
        return response

    return handle


class _Passage:
    """One request on its way through the gate."""

    def __init__(self, inbox: Inbox, request: web.Request, raw: bytes, fault: Fault | None, category: str) -> None:
        self.replayed = False
        self._inbox = inbox
        self._request = request
        self._raw = raw
        self._fault = fault
        self._category = category
        self._headers: dict[str, str] = {}
        self._newer = inbox.settings.release != "2.0.0"

    async def answer(self, handler: Handler) -> tuple[web.Response, int | None]:
        """The response, and its status; None if the response will not arrive."""
        fault = self._fault
        if fault is None:
            return self._response(await self._pass(handler))
        outcome: Outcome = Answer()
        if fault.takes_effect or fault.stored or fault.kind not in {"status", "hang", "cut"}:
            outcome = await self._pass(handler)
        if fault.kind == "hang":
            await self._hang()
        if fault.kind in {"hang", "cut"}:
            if self._request.transport is not None:
                self._request.transport.abort()
            return web.Response(), None
        if fault.kind == "garbage":
            return web.Response(status=201, body=GARBAGE, content_type="application/json"), 201
        return self._response(fault.problem() if fault.kind == "status" else outcome)

    async def _pass(self, handler: Handler) -> Outcome:
        try:
            body = self._admitted()
        except RejectedError as rejected:
            return rejected.problem
        key = self._request.headers.get("Idempotency-Key", "")
        if not (self._category and self._inbox.settings.idempotency and self._request.method == "POST" and key):
            return await self._run(handler, body)
        known, self.replayed = self._inbox.keys.begin(key, body)
        if known is not None:
            if self.replayed:
                self._headers |= {"idempotency-key": key, "idempotency-replay": "true"}
                self._inbox.engine.counters.replays += 1
            return UNAVAILABLE if self.replayed and isinstance(known, Problem) and self._newer else known
        outcome = await self._run(handler, body)
        self._inbox.keys.finish(key, outcome)
        self._headers["idempotency-key"] = key
        return outcome

    def _admitted(self) -> Any:
        """The body, if the request may pass. Raises `RejectedError`."""
        if not self._category:
            return checks.parse(self._raw, "application/json")
        limit = EVENTS_LIMIT if self._request.path.startswith("/v1/events") else OTHER_LIMIT
        if len(self._raw) > limit:
            raise RejectedError(internal_error())
        body = checks.parse(self._raw, self._request.content_type)
        self._check_key()
        self._check_rate()
        return body

    async def _run(self, handler: Handler, body: Any) -> Outcome:
        fault = self._fault
        if fault is None:
            return self._call(handler, body)
        if fault.kind == "event_status":
            return event_answer(fault, body)
        if fault.kind == "status":
            if fault.takes_effect:
                self._call(handler, body)
            return fault.problem()
        if fault.kind != "delay":
            return self._call(handler, body)
        if not fault.takes_effect:
            await asyncio.sleep(fault.seconds)
            return self._call(handler, body)
        outcome = self._call(handler, body)
        await asyncio.sleep(fault.seconds)
        return outcome

    def _call(self, handler: Handler, body: Any) -> Outcome:
        call = Call(
            name=self._request.match_info.get("name", ""),
            query=self._request.query,
            body=body,
            size=len(self._raw),
            now=self._inbox.clock(),
            fault=self._fault,
        )
        try:
            return handler(self._inbox, call)
        except RejectedError as rejected:
            return rejected.problem
        finally:
            self._inbox.changed()

    def _check_key(self) -> None:
        header = self._request.headers.get("Authorization", "")
        scheme, _, key = header.partition(" ")
        if not header:
            raise RejectedError(Problem(status=401, message="Missing authorization header"))
        if scheme == "Bearer":
            raise RejectedError(Problem(status=401, message="Unauthorized", named=False))
        if scheme != "ApiKey":
            raise RejectedError(Problem(status=401, message=f'Invalid authentication scheme: "{scheme}"'))
        if self._inbox.settings.api_key not in {None, key}:
            raise RejectedError(Problem(status=401, message="API Key not found"))

    def _check_rate(self) -> None:
        if self._inbox.limiter is None:
            return
        bulk = self._request.path == "/v1/events/trigger/bulk"
        allowed, headers = self._inbox.limiter(self._category, bulk, self._inbox.clock())
        self._headers |= headers
        if not allowed:
            raise RejectedError(Problem(status=429, message="API rate limit exceeded", named=False))

    async def _hang(self) -> None:
        """Wait until the client is gone, the faults are cleared or the server stops."""
        faults = self._inbox.faults
        round_ = faults.round
        while not self._inbox.closing and faults.round == round_:
            transport = self._request.transport
            if transport is None or transport.is_closing():
                return
            await self._inbox.next_change(_POLL_S)

    def _response(self, outcome: Outcome) -> tuple[web.Response, int]:
        if self._newer:
            outcome = newer(outcome)
        headers: Mapping[str, str] = {**self._headers, **outcome.headers}
        if isinstance(outcome, Answer) and outcome.body is None:
            return web.Response(status=outcome.status, headers=headers), outcome.status
        body = outcome.render(self._request.raw_path, self._inbox.clock())
        text = json.dumps(body, separators=(",", ":"))
        return web.json_response(text=text, status=outcome.status, headers=headers), outcome.status
