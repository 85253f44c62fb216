"""What a request to Novu's API passes before it reaches the engine, in Novu's order: size, JSON, key, rate limit,
idempotency.

Ordered faults come before all that, like those of a proxy or a bad network, or after it, like those of a slow or dying
server.
"""

import asyncio
import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from aiohttp import web

from tocsin_demo.inbox.answers import Answer, RefusedError, iso, problem
from tocsin_demo.inbox.faults import Fault, event_answer
from tocsin_demo.inbox.inbox import LOGGED_BODY, Inbox, Logged

EVENTS_LIMIT = 20 * 1024 * 1024
INTERNAL_ERROR = "Internal server error, contact support and provide them with the errorId"
MOST_KEYS = 100_000
"""Beyond it the oldest idempotency key is forgotten; Novu forgets after a day."""
_LINK = "https://docs.novu.co/additional-resources/idempotency"
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


Handler: TypeAlias = Callable[[Inbox, Call], Answer]


def guarded(inbox: Inbox, handler: Handler, *, category: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler behind the gate, for aiohttp. `category`: of the rate limit; empty for what is not part of Novu."""

    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        inbox.engine.counters.requests += 1
        fault = inbox.faults.next(request.method, request.path)
        passage = _Passage(inbox, request, raw, fault, handler, category)
        response = await passage.answer()
        inbox.log(
            Logged(
                at=inbox.clock(),
                method=request.method,
                path=request.raw_path,
                status=None if response is None else response.status,
                idempotency_key=request.headers.get("Idempotency-Key", ""),
                replayed=passage.replayed,
                fault=fault.kind if fault else "",
                body=raw if len(raw) <= LOGGED_BODY else b"",
            )
        )
        return response or web.Response()

    return handle


class _Passage:
    """One request on its way through the gate."""

    def __init__(
        self, inbox: Inbox, request: web.Request, raw: bytes, fault: Fault | None, handler: Handler, category: str
    ) -> None:
        self.replayed = False
        self._inbox = inbox
        self._request = request
        self._raw = raw
        self._fault = fault
        self._handler = handler
        self._category = category
        self._headers: dict[str, str] = {}

    async def answer(self) -> web.Response | None:
        """The response; None if there is none."""
        fault = self._fault
        if fault is not None and fault.kind == "status" and not fault.stored:
            return self._response(fault.answer())
        cut = fault is not None and fault.kind == "cut"
        answer = Answer() if fault is not None and cut and not fault.processed else await self._pass()
        if fault is not None and fault.kind == "hang":
            await self._hang()
            cut = True
        if not cut:
            return self._response(answer)
        if self._request.transport is not None:
            self._request.transport.abort()
        return None

    async def _pass(self) -> Answer:
        try:
            body = self._admitted()
        except RefusedError as refused:
            return refused.answer
        key = self._request.headers.get("Idempotency-Key", "")
        if not (self._category and self._inbox.settings.idempotency and self._request.method == "POST" and key):
            return await self._run(body)
        keys = self._inbox.keys
        # The order of fields counts, white space does not: Novu hashes JSON.stringify of the parsed body.
        digest = hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()
        if key in keys:
            return self._repeated(key, digest)
        keys[key] = digest, None
        if len(keys) > MOST_KEYS:
            del keys[next(iter(keys))]
        answer = await self._run(body)
        if key in keys:
            keys[key] = digest, answer  # that of an error, too
        self._headers["idempotency-key"] = key
        return answer

    def _repeated(self, key: str, digest: str) -> Answer:
        """The answer to a used key: the first request under it runs, and its answer is replayed to the others."""
        known, answer = self._inbox.keys[key]
        headers = {"idempotency-key": key, "link": _LINK}
        if answer is None:
            message = f'Request with key "{key}" is currently being processed. Please retry after 1 second'
            return problem(409, message, headers | {"retry-after": "1"})
        if known != digest:
            return problem(422, f'Request with key "{key}" is being reused for a different body', headers)
        self.replayed = True
        self._headers |= {"idempotency-key": key, "idempotency-replay": "true"}
        self._inbox.engine.counters.replays += 1
        if answer.status >= 400 and self._inbox.settings.release != "2.0.0":
            return problem(503, "Service Unavailable")
        return answer

    def _admitted(self) -> Any:
        """The body, if the request may pass. Raises `RefusedError`."""
        if not self._category:
            return _parsed(self._raw)
        if len(self._raw) > EVENTS_LIMIT:
            raise RefusedError(500, INTERNAL_ERROR)
        # Another content type, or an empty body, is an empty object to Novu.
        is_json = self._raw and self._request.content_type == "application/json"
        body = _parsed(self._raw) if is_json else {}
        scheme, _, key = self._request.headers.get("Authorization", "").partition(" ")
        if scheme != "ApiKey" or self._inbox.settings.api_key not in {None, key}:
            raise RefusedError(401, "API Key not found")
        if self._inbox.limiter is not None:
            bulk = self._request.path == "/v1/events/trigger/bulk"
            allowed, headers = self._inbox.limiter(self._category, bulk, self._inbox.clock())
            self._headers |= headers
            if not allowed:
                raise RefusedError(429, "API rate limit exceeded")
        return body

    async def _run(self, body: Any) -> Answer:
        fault = self._fault
        if fault is not None and fault.kind == "status":
            return fault.answer()
        if fault is not None and fault.kind == "event_status":
            return event_answer(fault, body)
        call = Call(
            name=self._request.match_info.get("name", ""),
            query=self._request.query,
            body=body,
            size=len(self._raw),
            now=self._inbox.clock(),
            fault=fault,
        )
        try:
            answer = self._handler(self._inbox, call)
        except RefusedError as refused:
            answer = refused.answer
        self._inbox.changed()
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        return answer

    async def _hang(self) -> None:
        """Wait until the client is gone, the faults are cleared or the server stops."""
        faults = self._inbox.faults
        round_ = faults.round
        while not self._inbox.closing and faults.round == round_:
            transport = self._request.transport
            if transport is None or transport.is_closing():
                return
            await self._inbox.next_change(_POLL_S)

    def _response(self, answer: Answer) -> web.Response:
        headers = {**self._headers, **answer.headers}
        if answer.body is None:
            return web.Response(status=answer.status, headers=headers)
        body = answer.body
        if answer.status >= 400:  # also of a stored answer
            body = {**body, "timestamp": iso(self._inbox.clock()), "path": self._request.raw_path}
        text = json.dumps(body, separators=(",", ":"))
        return web.json_response(text=text, status=answer.status, headers=headers)


def _parsed(raw: bytes) -> Any:
    """The JSON of a request body. Raises `RefusedError`."""
    try:
        return json.loads(raw.decode(), parse_float=_number, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request body is not JSON") from None


def _number(text: str) -> float | None:
    # JavaScript reads 1e999 as Infinity and writes that as null; JSON has neither.
    value = float(text)
    return value if math.isfinite(value) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
