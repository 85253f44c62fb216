"""The web server: metrics for Prometheus, probes, a status page for people, and a small JSON interface."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from tocsin.errors import LedgerError
from tocsin.exposition import Page
from tocsin.repeats import Repeats
from tocsin.web.api import Api
from tocsin.web.base import Process
from tocsin.web.connections import Connections
from tocsin.web.guard import Guard, details
from tocsin.web.live import Live
from tocsin.web.page import PageApi
from tocsin.web.readers import Readers
from tocsin.web.recording import RecordingApi
from tocsin.web.rows import Listing
from tocsin.web.silences import SilencesApi
from tocsin.web.views import text

log = structlog.get_logger(__name__)

_FAILED = Repeats(log, "request failed", level="error")

_TYPES = {".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_KEPT = ("Allow", "WWW-Authenticate", "Retry-After")
"""Headers of an error that its answer has too."""


def build(
    process: Process,
    page: Page,
    *,
    guard: Guard,
    connections: Connections | None = None,
    version: str = "",
    clock: Callable[[], float] = time.time,
) -> web.Application:
    """Build the application. `guard`: who may do what. `clock`: the same one that `Gauges.install` gets."""
    timed = [connections.middleware()] if connections else []
    application = web.Application(middlewares=[*timed, _errors, guard.middleware()])
    readers = Readers()
    api = Api(process=process, guard=guard, readers=readers, version=version, since=clock(), clock=clock)
    live = Live(process, clock=clock)
    shown = PageApi(process=process, guard=guard, live=live, listing=Listing(process), version=version, clock=clock)
    silences = SilencesApi(process=process, guard=guard)
    recording = RecordingApi(process=process, guard=guard, version=version, clock=clock)
    operations = _Operations(process=process, page=page, guard=guard, readers=readers, clock=clock)

    async def end_streams(_: web.Application) -> None:
        process.feed.close()
        process.tap.close()
        live.close()

    async def secure(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)
        response.headers.update(guard.rules.headers)

    application.add_routes(
        [*operations.routes(), *api.routes(), *silences.routes(), *shown.routes(), *recording.routes(), *_static()]
    )
    application.cleanup_ctx.append(shown.running)
    application.on_response_prepare.append(secure)
    application.on_shutdown.append(end_streams)
    return application


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operations:
    """The paths for Prometheus and for probes."""

    process: Process
    page: Page
    guard: Guard
    readers: Readers
    clock: Callable[[], float]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metrics", self.metrics),
            web.get("/healthz", self.healthy),
            web.get("/-/healthy", self.healthy),
            web.get("/readyz", self.ready),
            web.get("/-/ready", self.ready),
            web.post("/-/reload", self.reload),
        ]

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        scrape = await self.page.scrape(
            ",".join(request.headers.getall("Accept", ())),
            ",".join(request.headers.getall("Accept-Encoding", ())),
            self.clock(),
        )
        response = web.StreamResponse(headers={"Content-Type": scrape.content_type, "Vary": "Accept, Accept-Encoding"})
        if scrape.content_encoding:
            response.headers["Content-Encoding"] = scrape.content_encoding
        response.content_length = sum(map(len, scrape.body))
        await response.prepare(request)
        if request.method != "HEAD":
            for piece in scrape.body:
                await response.write(piece)
            self.readers.add(request.remote or "", request.headers.get("User-Agent", ""), self.clock())
        await response.write_eof()
        return response

    async def healthy(self, _: web.Request) -> web.Response:
        """Answer; that is all a liveness probe needs."""
        return web.Response(text="Tocsin is running.\n")

    async def ready(self, request: web.Request) -> web.Response:
        """Answer whether it is ready. The reasons name alerts and servers, so they need a login where there is one."""
        reasons, warnings = self.process.ready(), self.process.warnings()
        if not details(request):
            reasons, warnings = reasons and ["Tocsin is not ready; the reasons need a login."], []
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        led = _led(self.process.instances()) if details(request) else []
        return web.Response(text="".join(f"{line}\n" for line in ("Tocsin is ready.", *led, *warnings)))

    async def reload(self, request: web.Request) -> web.Response:
        self.guard.demand_admin(request)
        problems = await self.process.reload()
        if problems:
            lines = ["The configuration was refused; the last good one stays in use.", *problems]
            return web.Response(status=500, text="".join(f"{line}\n" for line in lines))
        return web.Response(text="The configuration was reloaded.\n")


def _led(instances: Sequence[dict[str, Any]]) -> list[str]:
    """Which alerts each process of the ledger leads, this one first; nothing where there are no others."""
    lines = [
        f"{'This process' if one['this'] else one['name']} leads {', '.join(one['leads']) or 'no alert'}."
        for one in sorted(instances, key=lambda one: not one["this"])
    ]
    return lines if len(lines) > 1 else []


def _static() -> list[web.RouteDef]:
    contents = {one.name: one.read_bytes() for one in files("tocsin.web").joinpath("static").iterdir() if one.is_file()}

    def serve(name: str) -> Handler:
        content_type = _TYPES[PurePath(name).suffix]

        async def handler(_: web.Request) -> web.StreamResponse:
            return web.Response(body=contents[name], content_type=content_type, charset="utf-8")

        return handler

    return [web.get("/", serve("index.html")), *(web.get(f"/static/{name}", serve(name)) for name in sorted(contents))]


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with one sentence: JSON below /api, plain text elsewhere. Defects are logged, not shown."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        status, message = error.status, error.text or error.reason
        headers = {name: error.headers[name] for name in _KEPT if name in error.headers}
    except LedgerError as error:
        status, message, headers = 503, str(error), {}
    except ConnectionResetError:
        return web.Response(status=499)  # the client hung up: there is no one to answer, and no defect to log
    except Exception as error:  # noqa: BLE001 - a defect is logged, and costs one request
        _FAILED.add(type(error).__name__, method=request.method, path=request.path, exc_info=True)
        status, message, headers = 500, "the request failed inside Tocsin; see its log", {}
    if request.path.startswith("/api/"):
        body = text({"error": message})
        return web.Response(status=status, text=body, content_type="application/json", headers=headers)
    return web.Response(status=status, text=f"{message}\n", headers=headers)
