"""What the pipelines receive, as it comes: `/api/v1/recording`, for `tocsin record`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from aiohttp import web

from tocsin.alert import Alert
from tocsin.pipeline.tap import taken_by
from tocsin.recording.lines import line_of
from tocsin.web.answers import no_such_alert, parameters, streamed
from tocsin.web.base import Process
from tocsin.web.guard import Guard

_HEARTBEAT = 15.0
"""Seconds between empty lines on a quiet stream."""
_LARGE = 1_000
"""Rows from which a line is made in a thread, so that the event loop goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingApi:
    """The handler."""

    process: Process
    guard: Guard
    version: str
    clock: Callable[[], float]

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/recording", self.recording)]

    async def recording(self, request: web.Request) -> web.StreamResponse:
        """Lines of JSON: a header, then the batches of the alerts (`alert`: names with commas; default: all), until
        the reader goes away or falls too far behind."""
        wanted = parameters(request, "alert").get("alert")
        alerts = self._alerts(None if wanted is None else wanted.split(","))
        return await streamed(request, self.guard, self._lines(alerts), "application/x-ndjson")

    async def _lines(self, alerts: Sequence[Alert]) -> AsyncGenerator[bytes, None]:
        yield _line({"tocsin": self.version, "at": self.clock(), "alerts": [one.name for one in alerts]})
        async with aclosing(self.process.tap.follow(*taken_by(alerts), quiet=_HEARTBEAT)) as stream:
            async for seen in stream:
                if seen is None:
                    yield b"\n"
                    continue
                line = line_of(seen, self.clock())
                large = len(line.get("updates") or line.get("firings") or line.get("list") or ()) > _LARGE
                yield await asyncio.to_thread(_line, line) if large else _line(line)

    def _alerts(self, wanted: list[str] | None) -> list[Alert]:
        names = [status["name"] for status in self.process.alerts()]
        for name in wanted or ():
            if name not in names:
                raise no_such_alert(name, names)
        found = (self.process.alert(name) for name in wanted or names)
        return [alert for alert in found if alert is not None]


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
