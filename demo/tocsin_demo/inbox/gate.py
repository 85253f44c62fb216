"""What a request to Novu's API passes before it reaches the engine, in Novu's order: size, JSON, key, rate limit,
idempotency.

The faults that were ordered stand before it all, as a proxy or a bad network would, or behind it, as a slow or dying
server.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
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

    request: web.Request
    body: Any
    size: int
    now: float
    fault: Fault | None


Handler: TypeAlias = Callable[[Inbox, Call], Outcome]


def guarded(inbox: Inbox, handler: Handler, *, category: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler behind the gate, as aiohttp wants it. `category`: of the rate limit; empty for what is no part of
    Novu."""

    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        inbox.engine.counters.requests += 1
        fault = inbox.faults.next(request.method, request.path)
        inbox.engine.counters.faults += fault is not None
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
        """The response, and its status or none if it will not arrive."""
        fault = self._fault
        if fault is not None and fault.kind == "status" and not (fault.stored or fault.takes_effect):
            return self._response(fault.problem())
        gone = fault is not None and fault.kind in {"hang", "cut"}
        outcome: Outcome = Answer()
        if fault is None or not gone or fault.takes_effect:
            outcome = await self._pass(handler)
        if fault is not None and fault.kind == "hang":
            await self._hang()
        if gone:
            if self._request.transport is not None:
                self._request.transport.abort()
            return web.Response(), None
        if fault is not None and fault.kind == "garbage":
            return web.Response(status=201, body=GARBAGE, content_type="application/json"), 201
        if fault is not None and fault.kind == "status":
            outcome = fault.problem()  # the client is told so even where the server did its work and knows better
        return self._response(outcome)

    async def _pass(self, handler: Handler) -> Outcome:
        try:
            body = self._admitted()
        except RejectedError as rejected:
            return rejected.problem
        if not self._category:
            return await self._run(handler, body)
        key = self._request.headers.get("Idempotency-Key", "") if self._inbox.settings.idempotency else ""
        if self._request.method != "POST" or not key:
            return await self._run(handler, body)
        return await self._run_once(handler, body, key)

    def _admitted(self) -> Any:
        """The body, if the request may pass. Raises `RejectedError`."""
        if not self._category:
            return checks.parse(self._raw, "application/json")
        self._check_size()
        body = checks.parse(self._raw, self._request.content_type)
        self._check_key()
        self._check_rate()
        self._check_payload(body)
        return body

    async def _run_once(self, handler: Handler, body: Any, key: str) -> Outcome:
        known, self.replayed = self._inbox.keys.begin(key, body, self._inbox.clock())
        if known is not None:
            if self.replayed:
                self._headers |= {"idempotency-key": key, "idempotency-replay": "true"}
                self._inbox.engine.counters.replays += 1
                if isinstance(known, Problem) and self._newer:
                    return UNAVAILABLE
            return known
        outcome = await self._run(handler, body)
        self._inbox.keys.finish(key, outcome, self._inbox.clock())
        self._headers["idempotency-key"] = key
        return outcome

    async def _run(self, handler: Handler, body: Any) -> Outcome:
        fault = self._fault
        call = Call(request=self._request, body=body, size=len(self._raw), now=self._inbox.clock(), fault=fault)
        if fault is None:
            return self._call(handler, call)
        if fault.kind == "event_status":
            return event_answer(fault, body)
        if fault.kind == "delay" and not fault.takes_effect:
            await asyncio.sleep(fault.seconds)
            call = replace(call, now=self._inbox.clock())
        outcome = fault.problem() if fault.kind == "status" and not fault.takes_effect else self._call(handler, call)
        if fault.kind == "delay" and fault.takes_effect:
            await asyncio.sleep(fault.seconds)
        return fault.problem() if fault.kind == "status" and fault.stored else outcome

    def _call(self, handler: Handler, call: Call) -> Outcome:
        try:
            return handler(self._inbox, call)
        except RejectedError as rejected:
            return rejected.problem
        finally:
            self._inbox.changed()

    def _check_size(self) -> None:
        limit = EVENTS_LIMIT if self._request.path.startswith("/v1/events") else OTHER_LIMIT
        if len(self._raw) > limit:
            raise RejectedError(internal_error(self._inbox.error_id()))

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
        if self._inbox.rate_limits is None:
            return
        bulk = self._request.path == "/v1/events/trigger/bulk"
        verdict = self._inbox.rate_limits.take(self._category, self._inbox.clock(), bulk=bulk)
        self._headers |= verdict.headers
        if not verdict.allowed:
            self._inbox.engine.counters.rate_limited += 1
            raise RejectedError(Problem(status=429, message="API rate limit exceeded", named=False))

    def _check_payload(self, body: Any) -> None:
        limit = self._inbox.settings.payload_limit
        if limit is None or len(self._raw) <= limit or not isinstance(body, dict):
            return
        events = body.get("events")
        for event in events if isinstance(events, list) else [body]:
            if isinstance(event, dict) and len(json.dumps(event.get("payload")).encode()) > limit:
                raise RejectedError(Problem(status=413, message=f"payload is larger than {limit} bytes"))

    async def _hang(self) -> None:
        """Wait until the client has gone, the faults are called off or the server stops."""
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
