"""What is sent: an HTTP request made of the templates of a channel and of a notification's envelope."""

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from yarl import URL

from tocsin.channels.http import json_bytes
from tocsin.redaction import SECRET
from tocsin.settings import invalid
from tocsin.templates import VARIABLES as ENVELOPE_VARIABLES
from tocsin.templates import Structure, Template, TemplateCode, TemplateError

VARIABLES = ENVELOPE_VARIABLES | {"secrets"}
"""What the templates of a request may name."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
BODILESS = ("GET", "DELETE")

JSON = "application/json"
NDJSON = "application/x-ndjson"

Variables: TypeAlias = Mapping[str, object]

_EXPRESSION = re.compile(r"(\{\{.*?\}\})", re.DOTALL)
_URLENCODE = re.compile(r"\|\s*urlencode\s*(\(\s*\))?\s*-?\}\}$")
_WITH_HOST = re.compile(r"https?://[^/?#]+[/?#]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes and how."""

    method: str
    url: URL
    headers: tuple[tuple[str, str], ...]
    query: tuple[tuple[str, str], ...]
    """The parameters that were added to the url."""

    def shown(self) -> str:
        """The url for people. All behind the host may be a token."""
        return f"{self.url.origin()}/{SECRET if self.url.raw_path_qs != '/' else ''}"

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
        self._method = _Part(method, "method", secrets, _method)
        self._url = _Url(url, secrets)
        self._query = {name: _Part(text, f"query.{name}", secrets, _encodable) for name, text in query.items()}
        self._headers = {name: _Part(text, f"headers.{name}", secrets, _line) for name, text in headers.items()}
        self.fixed_host = self._url.fixed_host
        self.constant: Target | None = None
        if all(part.constant is not None for part in self._parts()):
            with contextlib.suppress(TemplateError):  # which each notification reports
                self.constant = self.target({})

    def target(self, variables: Variables) -> Target:
        """Raises TemplateError."""
        if self.constant is not None:
            return self.constant
        query = tuple((name, part.render(variables)) for name, part in self._query.items())
        headers = tuple((name, part.render(variables)) for name, part in self._headers.items())
        url = self._url.render(variables)
        return Target(self._method.render(variables), url.extend_query(query) if query else url, headers, query)

    def faults(self, variables: Variables) -> Iterator[TemplateError]:
        """What is wrong with each part."""
        for part in self._parts():
            try:
                part.render(variables)
            except TemplateError as error:
                yield error

    def _parts(self) -> "list[_Part | _Url]":
        return [self._method, self._url, *self._query.values(), *self._headers.values()]


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
        return _encodable(text, "body_text").encode()


def check_url(source: str) -> None:
    """Raise the error of a validator, which does not quote it, for what is no url whatever its values are."""
    if "{%" in source or "{#" in source:
        raise invalid("statement", "{marks} is not allowed in a url, only expressions", marks="{% or {#")
    pieces = _split(source)
    for text, expression in pieces:
        if expression:
            Template(text, place="", known=VARIABLES)
    if pieces and pieces[0][1]:
        return
    try:
        _parsed("".join("x" if expression else text for text, expression in pieces))
    except TemplateError:
        raise invalid("address", "write a whole address, such as https://example.com/hook") from None


def url_secrets(url: str) -> list[str]:
    """What may be a token in a url: all of it, path, query, user and password, in each spelling in which a receiver may
    repeat it. The host is not a secret: errors name it."""
    try:
        sent = URL(url)  # what is sent is not what was written: `%2F` in a query goes out as `/`
    except ValueError:
        return [url]
    found = [piece for spelling in (url, str(sent)) for piece in _tokens(spelling)]
    if sent.user or sent.password:
        pair = f"{sent.user or ''}:{sent.password or ''}"  # as aiohttp puts it into Authorization
        found += [sent.password or "", base64.b64encode(pair.encode("latin1", "replace")).decode()]
    return [piece for piece in {*found, *map(unquote, found)} if piece]


class _Part:
    """A template and a check of what it renders. `constant`: its text if that is the same for all notifications; one
    with nothing but secrets in it is."""

    def __init__(self, source: str, place: str, secrets: Mapping[str, str], checked: Callable[[str, str], str]) -> None:
        self._place = place
        self._checked = checked
        self._template = Template(source, place=place, known=VARIABLES)
        self.constant = source if self._template.constant else None
        if self.constant is None:
            with contextlib.suppress(TemplateError):
                self.constant = Template(source, place=place, known={"secrets"}).render({"secrets": secrets})

    def render(self, variables: Variables) -> str:
        """Raises TemplateError."""
        text = self._template.render(variables) if self.constant is None else self.constant
        return self._checked(text, self._place)


class _Url:
    """A url with expressions.

    What an expression prints is percent-encoded, so that no value can change the path, add a parameter or name another
    host. Exceptions: secrets, an expression at the very beginning, and one that ends in `| urlencode`.
    """

    def __init__(self, source: str, secrets: Mapping[str, str]) -> None:
        self._parts: list[str | _Part] = []
        for position, (text, expression) in enumerate(_split(source)):
            verbatim = position == 0 or _URLENCODE.search(text)
            part = _Part(text, "url", secrets, _verbatim if verbatim else _quoted) if expression else text
            self._parts.append(part if isinstance(part, str) or part.constant is None else part.constant)
        self.constant = "".join(self._fixed()) if all(isinstance(part, str) for part in self._parts) else None
        self.fixed_host = self.constant is not None or _WITH_HOST.match("".join(self._fixed())) is not None

    def render(self, variables: Variables) -> URL:
        """Raises TemplateError."""
        return _parsed("".join(part if isinstance(part, str) else part.render(variables) for part in self._parts))

    def _fixed(self) -> Iterator[str]:
        """What is the same for all notifications, up to the first value of a row."""
        for part in self._parts:
            if not isinstance(part, str):
                return
            yield part


def _split(source: str) -> list[tuple[str, bool]]:
    """Texts and expressions in order, each with whether it is an expression."""
    pieces = enumerate(_EXPRESSION.split(source))
    return [(text, number % 2 == 1) for number, text in pieces if text]


# Checks of rendered text: each returns what is sent, or raises TemplateError.


def _parsed(text: str) -> URL:
    with contextlib.suppress(ValueError):
        parts, url = urlsplit(text), URL(text)
        if parts.scheme in ("http", "https") and parts.hostname and url.host and url.port:
            return url
    raise _unfit("url", "the rendered url is not a whole http or https address")


def _method(text: str, place: str) -> str:
    if text.strip() not in METHODS:
        raise _unfit(place, f"the rendered method is none of {', '.join(METHODS)}")
    return text.strip()


def _line(text: str, place: str) -> str:
    if not text.isprintable():
        raise _unfit(place, "the rendered value is not one line of printable characters")
    return text


def _verbatim(text: str, _place: str) -> str:
    return text


def _quoted(text: str, place: str) -> str:
    if text in (".", ".."):
        raise _unfit(place, "a value of . or .. would change the path")
    return quote(_encodable(text, place), safe="")


def _encodable(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unfit(place, "half of a surrogate pair cannot be sent as text") from None
    return text


def _unfit(place: str, detail: str) -> TemplateError:
    return TemplateError(TemplateCode.UNFIT, place=place, detail=detail)


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


def _tokens(url: str) -> Sequence[str]:
    parts = urlsplit(url)
    pieces = [parts.username or "", *parts.path.split("/")]
    pieces += [pair.partition("=")[2] for pair in parts.query.split("&")]
    whole = [url, parts.password or "", f"{parts.path}?{parts.query}" if parts.query else "", parts.query]
    return [*whole, *(piece for piece in pieces if len(piece) >= 8)]
