"""What the handlers of the API have in common: query parameters, and answers in JSON or as a stream."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from types import MappingProxyType
from typing import TypeAlias

from aiohttp import web

from tocsin.web import views
from tocsin.web.guard import Guard

Query: TypeAlias = Mapping[str, str]

RECONNECT = b"retry: 2000\n\n"
"""The first of the server-sent events: how long a client waits, in ms, before it connects again."""


def parameters(request: web.Request, *known: str) -> Query:
    """Return the query parameters. Raises HTTPBadRequest for one that is unknown or repeated."""
    unknown = sorted(set(request.query) - set(known))
    if unknown:
        names = f"known: {', '.join(known)}" if known else "this path has none"
        raise web.HTTPBadRequest(text=f"unknown query parameter {', '.join(unknown)}; {names}")
    twice = sorted(name for name in known if len(request.query.getall(name, ())) > 1)
    if twice:
        raise web.HTTPBadRequest(text=f"query parameter {', '.join(twice)} is repeated; set it once")
    return request.query


def whole(query: Query, name: str, default: int, *, least: int = 1, most: int = 2**63 - 1) -> int:
    """Return a parameter that is a whole number. Raises HTTPBadRequest."""
    value = query.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise web.HTTPBadRequest(text=f"{name} is {value!r}; it must be a whole number from {least} to {most}")
    return int(value)


def as_json(value: object, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> web.Response:
    """Return an answer of what `views` makes."""
    return web.Response(text=views.text(value), status=status, headers=headers, content_type="application/json")


def no_such_alert(name: str, names: Sequence[str]) -> web.HTTPNotFound:
    """Return the answer about an alert that is not configured. `names`: those that are."""
    return web.HTTPNotFound(text=f"there is no alert {name!r}; there are: {', '.join(names) or 'none'}")


async def streamed(
    request: web.Request, guard: Guard, pieces: AsyncGenerator[bytes, None], content_type: str = "text/event-stream"
) -> web.StreamResponse:
    """Answer with the pieces as they come, until the client goes away, or other rules of the port are in effect: it may
    no longer be allowed to read, and connects again."""
    rules = guard.rules
    response = web.StreamResponse(headers={"Content-Type": content_type, "X-Accel-Buffering": "no"})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    async with aclosing(pieces):
        with suppress(ConnectionResetError):
            async for piece in pieces:
                if guard.rules != rules:
                    break
                # Waits while the client does not read; `Connections` ends one that goes on so.
                await response.write(piece)
    return response
