"""What the handlers of the API have in common: query parameters, and answers in JSON."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from aiohttp import web

from tocsin.web import views

Query: TypeAlias = Mapping[str, str]


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
