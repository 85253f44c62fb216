"""The inbox over HTTP: Novu's API, plain webhooks, the controls of the tests, and the page."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from tocsin_demo.inbox import checks, documents, view
from tocsin_demo.inbox.answers import Answer, Outcome, Problem, bad_request, internal_error, not_found
from tocsin_demo.inbox.faults import Orders
from tocsin_demo.inbox.gate import Call, Handler, guarded
from tocsin_demo.inbox.inbox import Inbox
from tocsin_demo.inbox.release import newer

LARGEST_BODY = 64 * 1024 * 1024
MAX_LIMIT = 1000
_PUSH_EVERY_S = 0.25
_SIGN_OF_LIFE_S = 15.0
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


def trigger(inbox: Inbox, call: Call) -> Outcome:
    return inbox.engine.trigger(call.body, call.now, call.size)


def bulk(inbox: Inbox, call: Call) -> Outcome:
    bad = call.fault.index if call.fault is not None and call.fault.kind == "bad_event" else None
    return inbox.engine.bulk(call.body, call.now, bad_event=bad)


def broadcast(inbox: Inbox, call: Call) -> Outcome:
    return inbox.engine.broadcast(call.body, call.now)


def cancel(inbox: Inbox, call: Call) -> Outcome:
    return inbox.engine.cancel(call.request.match_info["id"], call.now)


def delete_by_transaction(inbox: Inbox, call: Call) -> Outcome:
    channel = call.request.query.get("channel")
    return inbox.engine.delete_by_transaction(call.request.match_info["id"], channel, call.now)


def delete_message(inbox: Inbox, call: Call) -> Outcome:
    return inbox.engine.delete_message(call.request.match_info["id"], call.now)


def messages(inbox: Inbox, call: Call) -> Outcome:
    query = call.request.query
    limit = checks.whole_number(query.get("limit", "10"), "limit") or 10
    page = checks.whole_number(query.get("page", "0"), "page")
    if limit > MAX_LIMIT:
        raise bad_request(f"Limit can not be larger then {MAX_LIMIT}")
    if limit < 0 or page < 0:
        return internal_error(inbox.error_id())
    rows = inbox.engine.messages(
        call.now,
        channel=query.get("channel"),
        subscriber_id=query.get("subscriberId"),
        transactions=[*query.getall("transactionId", []), *query.getall("transactionId[]", [])],
    )
    people = inbox.engine.worker.subscribers
    found = documents.page(rows, page, limit)
    found["data"] = [documents.message(row, sent, people[row.subscriber_id]) for row, sent in found["data"]]
    return Answer(body=found)


def create_workflow(inbox: Inbox, call: Call) -> Outcome:
    fields = checks.fields_of(call.body)
    name = fields.get("workflowId") or fields.get("name")
    if not isinstance(name, str):
        raise bad_request(["name should not be null or undefined", "name must be a string"])
    schema = fields.get("payloadSchema")
    required = checks.fields_of(schema).get("required") if fields.get("validatePayload") else None
    workflow = inbox.engine.add_workflow(
        name.strip().lower().replace(" ", "-"),
        now=call.now,
        steps=documents.steps_of(fields.get("steps")),
        name=str(fields.get("name") or name),
        active=fields.get("active") is not False,
        required=[str(each) for each in required] if isinstance(required, list) else [],
    )
    return Answer(status=201, body={"data": documents.workflow(workflow, inbox.settings.providers)})


def get_workflow(inbox: Inbox, call: Call) -> Outcome:
    workflow = inbox.engine.find_workflow(call.request.match_info["id"])
    if workflow is None:
        raise not_found("Workflow cannot be found")
    return Answer(body={"data": documents.workflow(workflow, inbox.settings.providers)})


def list_workflows(inbox: Inbox, call: Call) -> Outcome:  # noqa: ARG001
    found = [documents.workflow(each, inbox.settings.providers) for each in inbox.engine.workflows.values()]
    return Answer(body={"data": {"workflows": found, "totalCount": len(found)}})


def create_subscriber(inbox: Inbox, call: Call) -> Outcome:
    name = checks.subscriber_id(call.body)
    person = inbox.engine.worker.add_subscriber(name, call.body, call.now)
    return Answer(status=201, body={"data": documents.subscriber(person)})


def get_subscriber(inbox: Inbox, call: Call) -> Outcome:
    name = call.request.match_info["id"]
    person = inbox.engine.worker.subscribers.get(name)
    if person is None:
        raise not_found(f"Subscriber not found for id {name}")
    return Answer(body={"data": documents.subscriber(person)})


def list_subscribers(inbox: Inbox, call: Call) -> Outcome:  # noqa: ARG001
    found = [documents.subscriber(each) for each in inbox.engine.worker.subscribers.values()]
    return Answer(body={"data": found, "next": None, "previous": None, "totalCount": len(found)})


def webhook(inbox: Inbox, call: Call) -> Outcome:
    delivery = inbox.engine.webhook(call.request.match_info["name"], call.body, call.now)
    return Answer(body={"received": True, "repeat": delivery.repeat})


API: tuple[tuple[str, str, Handler, str], ...] = (
    ("POST", "/v1/events/trigger", trigger, "trigger"),
    ("POST", "/v1/events/trigger/bulk", bulk, "trigger"),
    ("POST", "/v1/events/trigger/broadcast", broadcast, "trigger"),
    ("DELETE", "/v1/events/trigger/{id:[^/]+}", cancel, "trigger"),
    ("DELETE", "/v1/messages/transaction/{id:[^/]+}", delete_by_transaction, "global"),
    ("DELETE", "/v1/messages/{id:[^/]+}", delete_message, "global"),
    ("GET", "/v1/messages", messages, "global"),
    ("POST", "/v2/workflows", create_workflow, "configuration"),
    ("GET", "/v2/workflows", list_workflows, "configuration"),
    ("GET", "/v2/workflows/{id:[^/]+}", get_workflow, "configuration"),
    ("POST", "/v2/subscribers", create_subscriber, "configuration"),
    ("GET", "/v2/subscribers", list_subscribers, "configuration"),
    ("GET", "/v2/subscribers/{id:[^/]+}", get_subscriber, "configuration"),
    ("POST", "/v1/subscribers", create_subscriber, "configuration"),
    ("GET", "/v1/subscribers/{id:[^/]+}", get_subscriber, "configuration"),
    ("POST", "/webhook/{name:.+}", webhook, ""),
)
"""Method, path, handler and category of the rate limit."""


def application(inbox: Inbox) -> web.Application:
    """The web application of an inbox. It stops the inbox's waits when it shuts down."""
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[_unknown_paths(inbox)])
    for method, path, handler, category in API:
        app.router.add_route(method, path, guarded(inbox, handler, category=category))
    app.router.add_get("/v1/health-check", _health(inbox))
    app.router.add_get("/control/state", _told(lambda: view.state(inbox)))
    app.router.add_get("/control/faults", _told(lambda: _in_force(inbox)))
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
    """Serve an inbox; gives its URL. Port 0 takes a free one. Raises `OSError` if the port is taken."""
    runner = web.AppRunner(application(inbox), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    clockwork = asyncio.create_task(inbox.run())
    try:
        await web.TCPSite(runner, host, port).start()
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}"
    finally:
        clockwork.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await clockwork
        await runner.cleanup()


def _unknown_paths(inbox: Inbox) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            problem = Problem(status=404, message=f"Cannot {request.method} {request.raw_path}")
            answer = problem if inbox.settings.release == "2.0.0" else newer(problem)
            return web.json_response(answer.render(request.raw_path, inbox.clock()), status=404)

    return middleware


def _health(inbox: Inbox) -> Callable[[web.Request], Awaitable[web.Response]]:
    parts = {
        "db": {"status": "up"},
        "workflowQueue": {"status": "up"},
        "apiVersion": {"version": inbox.settings.release, "status": "up"},
    }
    return _told(lambda: {"data": {"status": "ok", "info": parts, "error": {}, "details": parts}})


def _told(what: Callable[[], Any]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response(what())

    return handle


def _in_force(inbox: Inbox) -> dict[str, Any]:
    return {
        "faults": [fault.model_dump(exclude_none=True) for fault in inbox.faults.active],
        "worker": "up" if inbox.engine.worker.up else "down",
    }


def _order(inbox: Inbox) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        # A page of another site cannot send this content type without asking first, and is refused then.
        if request.content_type != "application/json":
            return web.json_response({"error": "send application/json"}, status=415)
        try:
            inbox.order(Orders.model_validate_json(await request.read()))
        except ValidationError as error:
            return web.json_response(
                {"error": json.loads(error.json(include_url=False, include_context=False))}, status=400
            )
        return web.json_response(_in_force(inbox))

    return handle


async def _page_file(request: web.Request) -> web.Response:
    name, content_type = _PAGE[request.path]
    text = files("tocsin_demo.inbox").joinpath("page", name).read_text("utf-8")
    return web.Response(text=text, content_type=content_type, headers=_PAGE_HEADERS)


def _stream(inbox: Inbox) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Server-sent events: the whole page at once, and again after every change, but not more often than four times a
    second."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        shown = None
        with contextlib.suppress(ConnectionError):
            while not inbox.closing:
                if shown != inbox.version:
                    shown = inbox.version
                    text = json.dumps(view.page(inbox), separators=(",", ":"))
                    await response.write(f"data: {text}\n\n".encode())
                    await asyncio.sleep(_PUSH_EVERY_S)
                elif not await inbox.next_change(_SIGN_OF_LIFE_S):
                    await response.write(b": still here\n\n")
        return response

    return handle
