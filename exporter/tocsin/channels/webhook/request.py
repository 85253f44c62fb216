"""What is sent: an HTTP request made of the templates of a channel and of a notification's envelope."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from yarl import URL

from tocsin.channels.http import json_bytes
from tocsin.channels.webhook.parts import VARIABLES, Variables, encodable, part, rendered, unfit
from tocsin.channels.webhook.url import UrlTemplate, url_secrets
from tocsin.templates import Structure, Template, TemplateCode, TemplateError

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
BODILESS = ("GET", "DELETE")

JSON = "application/json"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes and how."""

    method: str
    url: URL
    headers: tuple[tuple[str, str], ...]
    query: tuple[tuple[str, str], ...]
    """The parameters that were added to the url."""

    def secrets(self) -> list[str]:
        """What must not be shown of it."""
        return [*url_secrets(str(self.url)), *(text for _, text in (*self.headers, *self.query))]


class Recipe:
    """Method, url, query and headers of a channel.

    `constant`: the target if it is the same for all notifications. `fixed_host`: whether no row can name the host.
    """

    def __init__(
        self,
        method: str,
        url: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        secrets: Mapping[str, str],
    ) -> None:
        self._method = part(method, "method", secrets)
        self._url = UrlTemplate(url, secrets)
        self._query = {name: part(text, f"query.{name}", secrets) for name, text in query.items()}
        self._headers = {name: part(text, f"headers.{name}", secrets) for name, text in headers.items()}
        self.fixed_host = self._url.fixed_host
        self.constant: Target | None = None
        parts = [self._method, *self._query.values(), *self._headers.values()]
        if self._url.constant and all(isinstance(one, str) for one in parts):
            with contextlib.suppress(TemplateError):  # which each notification reports
                self.constant = self.target({})

    def target(self, variables: Variables) -> Target:
        """Raises TemplateError."""
        if self.constant is not None:
            return self.constant
        query = tuple((name, self._parameter(name, variables)) for name in self._query)
        headers = tuple((name, self._header(name, variables)) for name in self._headers)
        url = self._url.render(variables)
        return Target(self._rendered_method(variables), url.extend_query(query) if query else url, headers, query)

    def faults(self, variables: Variables) -> Iterator[TemplateError]:
        """What is wrong with each part."""
        parts: list[Callable[[Variables], object]] = [self._rendered_method, self._url.render]
        parts += [partial(self._parameter, name) for name in self._query]
        parts += [partial(self._header, name) for name in self._headers]
        for render in parts:
            try:
                render(variables)
            except TemplateError as error:
                yield error

    def _rendered_method(self, variables: Variables) -> str:
        method = rendered(self._method, variables).strip()
        if method not in METHODS:
            raise unfit("method", f"the rendered method is none of {', '.join(METHODS)}")
        return method

    def _parameter(self, name: str, variables: Variables) -> str:
        return encodable(rendered(self._query[name], variables), f"query.{name}")

    def _header(self, name: str, variables: Variables) -> str:
        text = rendered(self._headers[name], variables)
        if not text.isprintable():
            raise unfit(f"headers.{name}", "the rendered value is not one line of printable characters")
        return text


class Content:
    """The body for the notifications of one alert. `kind`: its Content-Type. `batch`: whether it is part of a body."""

    def __init__(self, body: Any, body_text: str | None, content_type: str | None, batch: str | None) -> None:
        self.kind = content_type or (NDJSON if batch == "ndjson" else JSON)
        self._batch = batch is not None
        kind = self.kind.partition(";")[0].strip().lower()
        self._json = self._batch or kind == JSON or kind.endswith("+json")
        self._structure = None if body is None else Structure(body, place="body", known=VARIABLES)
        self._text = None if body_text is None else Template(body_text, place="body_text", known=VARIABLES)

    @property
    def plain(self) -> bool:
        """Whether it is the envelope."""
        return self._structure is None and self._text is None

    def render(self, envelope: Variables, variables: Variables) -> bytes:
        """Raises TemplateError."""
        if self._structure is not None:
            return json_bytes(self._structure.render(variables))
        if self._text is None:
            return json_bytes(envelope)
        text = self._text.render(variables)
        value = _loaded(text) if self._json else None
        if self._batch:
            return json_bytes(value)  # on one line
        return encodable(text, "body_text").encode()


def _loaded(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        where = "nested too deep"
    except ValueError as error:  # NaN and the like
        where = str(error)
    detail = f"the rendered text is not JSON ({where}); insert values with the filter json, or use body"
    raise TemplateError(TemplateCode.NOT_JSON, place="body_text", detail=detail)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")
