"""The inbox over HTTP: the part of Novu's API that Tocsin calls, plain webhooks, the controls, and the page."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from tocsin_demo.inbox import documents, view
from tocsin_demo.inbox.answers import Answer, problem
from tocsin_demo.inbox.faults import Orders
from tocsin_demo.inbox.gate import Call, Handler, guarded
from tocsin_demo.inbox.inbox import Inbox

LARGEST_BODY = 64 * 1024 * 1024
_PUSH_EVERY_S = 0.25
_KEEPALIVE_S = 15.0
_PAGE = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def bulk(inbox: Inbox, call: Call) -> Answer:
    bad = call.fault.index if call.fault is not None and call.fault.kind == "bad_event" else None
    return inbox.engine.bulk(call.body, call.now, bad_event=bad)


def delete(inbox: Inbox, call: Call) -> Answer:
    return inbox.engine.delete_by_transaction(call.name, call.query.get("channel"), call.now)


def get_workflow(inbox: Inbox, call: Call) -> Answer:
    workflow = inbox.engine.find_workflow(call.name)
    return Answer(body={"data": documents.workflow(workflow, inbox.settings.providers)})


def webhook(inbox: Inbox, call: Call) -> Answer:
    delivery = inbox.engine.webhook(call.name, call.body, call.now)
    return Answer(body={"received": True, "repeat": delivery.repeat})


API: tuple[tuple[str, str, Handler, str], ...] = (
    ("POST", "/v1/events/trigger", lambda inbox, call: inbox.engine.trigger(call.body, call.now, call.size), "trigger"),
    ("POST", "/v1/events/trigger/bulk", bulk, "trigger"),
    ("DELETE", "/v1/events/trigger/{name:[^/]+}", lambda inbox, c: inbox.engine.cancel(c.name, c.now), "trigger"),
    ("DELETE", "/v1/messages/transaction/{name:[^/]+}", delete, "global"),
    ("GET", "/v2/workflows/{name:[^/]+}", get_workflow, "configuration"),
    ("POST", "/webhook/{name:.+}", webhook, ""),
)
"""Method, path, handler and category of the rate limit."""


def application(inbox: Inbox) -> web.Application:
    """The web application of an inbox. Its shutdown ends the waits of the inbox."""
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_unknown_paths])
    for method, path, handler, category in API:
        app.router.add_route(method, path, guarded(inbox, handler, category=category))
    parts = {
        "db": {"status": "up"},
        "workflowQueue": {"status": "up"},
        "apiVersion": {"version": inbox.settings.release, "status": "up"},
    }
    health = {"data": {"status": "ok", "info": parts, "error": {}, "details": parts}}
    app.router.add_get("/v1/health-check", _json(lambda: health))
    app.router.add_get("/control/state", _json(lambda: view.state(inbox)))
    app.router.add_post("/control/faults", _order(inbox))
    app.router.add_get("/page/stream", _stream(inbox))
    for path in _PAGE:
        app.router.add_get(path, _page_file)

    async def close(_: web.Application) -> None:
        inbox.close()

    app.on_shutdown.append(close)
    return app


@contextlib.asynccontextmanager
async def serving(inbox: Inbox, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve an inbox; yields its URL. Port 0 takes a free one. Raises `OSError` if the port is taken."""
    runner = web.AppRunner(application(inbox), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    worker = asyncio.create_task(inbox.run())
    try:
        await web.TCPSite(runner, host, port).start()
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}"
    finally:
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
        await runner.cleanup()


@web.middleware
async def _unknown_paths(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return web.json_response(problem(404, f"Cannot {request.method} {request.raw_path}").body, status=404)


def _json(content: Callable[[], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response(content())

    return handle


def _order(inbox: Inbox) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        # Browsers let no page of another site send this content type without asking the server first.
        if request.content_type != "application/json":
            return web.json_response({"error": "send application/json"}, status=415)
        try:
            inbox.order(Orders.model_validate_json(await request.read()))
        except ValidationError as error:
            errors = json.loads(error.json(include_url=False, include_context=False))
            return web.json_response({"error": errors}, status=400)
        return web.json_response(view.orders(inbox))

    return handle


async def _page_file(request: web.Request) -> web.Response:
    name, content_type = _PAGE[request.path]
    text = files("tocsin_demo.inbox").joinpath("page", name).read_text("utf-8")
    return web.Response(text=text, content_type=content_type, headers=_PAGE_HEADERS)


def _stream(inbox: Inbox) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Server-sent events: the whole page at once, and again after changes, at most four times a second."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        sent = None
        with contextlib.suppress(ConnectionError):
            while not inbox.closing:
                if sent != inbox.version:
                    sent = inbox.version
                    text = json.dumps(view.page(inbox), separators=(",", ":"))
                    await response.write(f"data: {text}\n\n".encode())
                    await asyncio.sleep(_PUSH_EVERY_S)
                elif not await inbox.next_change(_KEEPALIVE_S):
                    await response.write(b": keepalive\n\n")
        return response

    return handle
