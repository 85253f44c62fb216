"""A receiver of HTTP requests on 127.0.0.1 with scripted answers, which keeps the requests."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request as it came in. `path` has the query; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to do with a request. `hang` gives no answer at all until the receiver closes; `cut` closes the connection
    instead of answering; `unfinished` sends status and headers, and a body without end."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False
    unfinished: bool = False


def of_json(status: int, value: Any, **headers: str) -> Answer:
    """An answer with a JSON body; `retry_after="1"` becomes the header `retry-after`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status=status, body=json.dumps(value).encode(), headers={"content-type": "application/json"} | named)


class Receiver:
    """A server for the length of an `async with`. `otherwise` answers when the script has run out."""

    def __init__(self, otherwise: Callable[[Received], Answer] | None = None) -> None:
        self.requests: list[Received] = []
        self.connections: set[asyncio.BaseTransport] = set()
        self.otherwise = otherwise or (lambda _: Answer())
        self._script: deque[Answer] = deque()
        self._arrived = asyncio.Condition()
        self._closing = asyncio.Event()
        self._runner: web.ServerRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *answers: Answer) -> None:
        """Answer the next requests so, one after the other."""
        self._script.extend(answers)

    async def arrived(self, count: int) -> list[Received]:
        """Wait until so many requests have come in, and return all."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    def release(self) -> None:
        """Answer the requests that hang, and let no more hang."""
        self._closing.set()

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        received = Received(
            method=request.method,
            path=request.raw_path,
            headers={name.lower(): text for name, text in request.headers.items()},
            body=await request.content.read(-1),
        )
        assert request.transport is not None
        self.connections.add(request.transport)
        async with self._arrived:
            self.requests.append(received)
            self._arrived.notify_all()
        answer = self._script.popleft() if self._script else self.otherwise(received)
        if answer.cut:
            request.transport.close()
            await self._closing.wait()
        if answer.hang:
            await self._closing.wait()
        if not answer.unfinished:
            return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        await response.prepare(request)
        await response.write(answer.body)
        while not self._closing.is_set():
            await response.write(b" ")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await self._closing.wait()
        return response
