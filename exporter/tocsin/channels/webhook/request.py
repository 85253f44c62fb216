"""What is sent: an HTTP request made of the templates of a channel and of the notification's envelope."""

import base64
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from yarl import URL

from tocsin.channels.http import json_bytes
from tocsin.channels.settings import Trial
from tocsin.envelope import Envelope, scope
from tocsin.redaction import masker
from tocsin.templates import VARIABLES as ENVELOPE_VARIABLES
from tocsin.templates import FixedNames, Structure, Template, TemplateCode, TemplateError

if TYPE_CHECKING:
    from tocsin.channels.webhook.settings import Config, Options

VARIABLES = ENVELOPE_VARIABLES | {"secrets"}
"""What the templates of a request may name."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
BODILESS = ("GET", "DELETE")

JSON = "application/json"
NDJSON = "application/x-ndjson"

Variables = Mapping[str, object]


def _unfit(place: str, detail: str) -> TemplateError:
    """What was rendered cannot be sent, as an address without a host."""
    return TemplateError(TemplateCode.UNFIT, place=place, detail=detail)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes and how. `confidential`: the values of headers and query."""

    method: str
    url: URL
    headers: tuple[tuple[str, str], ...]
    confidential: tuple[str, ...]

    def confidential_parts(self) -> list[str]:
        """What must not be repeated of it."""
        return [*secret_parts(str(self.url)), *self.confidential]


class Recipe:
    """Method, url, query and headers of a channel. `constant`: the target if it is the same for all notifications.

    `fixed_host`: whether no row has a say in who the host is.
    """

    def __init__(self, config: "Config", secrets: Mapping[str, str]) -> None:
        self._method = _fold(config.method, "method", secrets)
        self._address = Address(config.url.get_secret_value(), secrets)
        self._query = {
            name: _fold(value.get_secret_value(), f"query.{name}", secrets) for name, value in config.query.items()
        }
        self._headers = {
            name: _fold(value.get_secret_value(), f"headers.{name}", secrets) for name, value in config.headers.items()
        }
        self.fixed_host = self._address.fixed_host
        parts = [self._method, *self._query.values(), *self._headers.values()]
        self.constant: Target | None = None
        if self._address.constant and all(isinstance(part, str) for part in parts):
            with contextlib.suppress(TemplateError):  # told of every notification instead
                self.constant = self.target({})

    def target(self, variables: Variables) -> Target:
        """Raises TemplateError."""
        if self.constant is not None:
            return self.constant
        query = self._rendered_query(variables)
        headers = tuple((name, self._header(name, variables)) for name in self._headers)
        url = self._address.render(variables)
        return Target(
            method=self._rendered_method(variables),
            url=url.extend_query(query) if query else url,
            headers=headers,
            confidential=(*(text for _, text in headers), *(text for _, text in query)),
        )

    def confidential(self) -> list[str]:
        """What must not be repeated of every request."""
        return [] if self.constant is None else self.constant.confidential_parts()

    def attempts(self) -> Iterator[Callable[[Variables], object]]:
        """Each part for itself, to find what is wrong with every one of them."""
        yield self._rendered_method
        yield self._address.render
        yield self._rendered_query
        for name in self._headers:
            yield lambda variables, name=name: self._header(name, variables)  # type: ignore[misc]

    def _rendered_method(self, variables: Variables) -> str:
        method = _render(self._method, variables).strip()
        if method not in METHODS:
            raise _unfit("method", f"the rendered method is none of {', '.join(METHODS)}")
        return method

    def _rendered_query(self, variables: Variables) -> list[tuple[str, str]]:
        query = [(name, _render(value, variables)) for name, value in self._query.items()]
        for name, text in query:
            _encodable(text, f"query.{name}")
        return query

    def _header(self, name: str, variables: Variables) -> str:
        text = _render(self._headers[name], variables)
        if not text.isprintable():
            raise _unfit(f"headers.{name}", "the rendered value is not one line of printable characters")
        return text


class Address:
    """The url as a template: `{{ }}` only.

    What an expression gives is percent-encoded, so that no value can change the path, add a parameter or name another
    host. Not so secrets, what begins the address, and an expression that ends in `| urlencode`.
    """

    def __init__(self, source: str, secrets: Mapping[str, str]) -> None:
        self._pieces: list[tuple[str | Template, bool]] = []
        for position, (text, expression) in enumerate(_split(source)):
            value = _fold(text, "url", secrets) if expression else text
            as_it_is = isinstance(value, str) or position == 0 or bool(_URLENCODE.search(text))
            self._pieces.append((value, as_it_is))
        self.constant = all(isinstance(value, str) for value, _ in self._pieces)
        beginning = ""
        for value, _ in self._pieces:
            if not isinstance(value, str):
                break
            beginning += value
        self.fixed_host = self.constant or _WITH_HOST.match(beginning) is not None

    def render(self, variables: Variables) -> URL:
        """Raises TemplateError."""
        return _parsed("".join(self._encoded(value, variables, as_it_is) for value, as_it_is in self._pieces))

    def _encoded(self, value: str | Template, variables: Variables, as_it_is: bool) -> str:
        text = _render(value, variables)
        if as_it_is:
            return text
        if text in (".", ".."):
            raise _unfit("url", "a value of . or .. would change the path")
        return quote(_encodable(text, "url"), safe="")


_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_URLENCODE = re.compile(r"\|\s*urlencode\s*(\(\s*\))?\s*-?\}\}$")
_WITH_HOST = re.compile(r"https?://[^/?#]+[/?#]", re.IGNORECASE)


def compiled(source: str, *, place: str = "") -> Template:
    """A template for a request."""
    return Template(source, place=place, known=VARIABLES)


def check_address(source: str) -> None:
    """Refuse, with a ValueError that holds nothing of it, what can be no address whatever its values are."""
    if "{%" in source or "{#" in source:
        raise ValueError("of templates only {{ }} can stand in an address")
    pieces = _split(source)
    for text, expression in pieces:
        if expression:
            compiled(text)
    if pieces and pieces[0][1]:
        return
    try:
        _parsed("".join("x" if expression else text for text, expression in pieces))
    except TemplateError:
        raise ValueError("write a whole address, such as https://example.com/hook") from None


def _split(source: str) -> list[tuple[str, bool]]:
    """Texts and expressions, in order, and which is which."""
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _EXPRESSION.finditer(source):
        if match.start() > end:
            pieces.append((source[end : match.start()], False))
        pieces.append((match[0], True))
        end = match.end()
    return [*pieces, (source[end:], False)] if end < len(source) else pieces


def _parsed(text: str) -> URL:
    try:
        parts = urlsplit(text)
        url = URL(text)
        if parts.scheme in ("http", "https") and parts.hostname and url.host and url.port:
            return url
    except ValueError:
        pass
    raise _unfit("url", "the rendered url is no whole http or https address")


class Content:
    """The body for the notifications of one alert. `kind`: its Content-Type."""

    def __init__(self, options: "Options", batch: str | None) -> None:
        self.kind = options.content_type or (NDJSON if batch == "ndjson" else JSON)
        self._together = batch is not None
        self._json = self._together or _is_json(self.kind)
        self._structure = None if options.body is None else Structure(options.body, place="body", known=VARIABLES)
        self._text = (
            None if options.body_text is None else Template(options.body_text, place="body_text", known=VARIABLES)
        )

    @property
    def plain(self) -> bool:
        """Whether it is the envelope as it stands."""
        return self._structure is None and self._text is None

    def render(self, envelope: Variables, variables: Variables) -> bytes:
        """Raises TemplateError."""
        if self._structure is not None:
            return json_bytes(self._structure.render(variables))
        if self._text is None:
            return json_bytes(envelope)
        text = self._text.render(variables)
        if self._json:
            value = _loaded(text)
            if self._together:
                return json_bytes(value)  # on one line
        return _encodable(text, "body_text").encode()


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or kind.endswith("+json")


def _loaded(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        where = "nested too deep"
    except ValueError as error:  # NaN and the like
        where = str(error)
    detail = f"the rendered text is no JSON ({where}); put values in with the filter json, or use body"
    raise TemplateError(TemplateCode.NOT_JSON, place="body_text", detail=detail)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _encodable(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unfit(place, "half of a surrogate pair cannot be sent as text") from None
    return text


def _fold(source: str, place: str, secrets: Mapping[str, str]) -> str | Template:
    """A template; its text where that is the same for every notification, as it is if nothing but secrets is in it."""
    template = Template(source, place=place, known=VARIABLES)
    if template.constant:
        return source
    try:
        return Template(source, place=place, known={"secrets"}).render({"secrets": secrets})
    except TemplateError:
        return template


def _render(value: str | Template, variables: Variables) -> str:
    return value if isinstance(value, str) else value.render(variables)


def seen(envelope: Envelope, secrets: Mapping[str, str]) -> Variables:
    """What the templates of a request see."""
    return {**scope(envelope), "secrets": secrets}


def trial(config: "Config", options: "Options") -> Trial:
    """Return the check of the request that these options make of a notification. No error holds a secret."""
    secrets = FixedNames({name: value.get_secret_value() for name, value in config.secret_values.items()})
    mask = masker(confidential(config))
    content, recipe = Content(options, config.batch), Recipe(config, secrets)

    def faults(variables: Variables) -> Iterator[TemplateError]:
        seen = {**variables, "secrets": secrets} if secrets else variables
        attempts: list[Callable[[Variables], object]] = [*recipe.attempts(), partial(content.render, variables)]
        for attempt in attempts:
            try:
                attempt(seen)
            except TemplateError as error:
                yield error.masked(mask)

    return faults


def confidential(config: "Config") -> list[str]:
    """Everything in a configuration that must not be repeated."""
    signing = config.signing_secret.get_secret_value().split() if config.signing_secret else []
    named = [*config.secret_values.values(), *config.headers.values(), *config.query.values()]
    return [
        *secret_parts(config.url.get_secret_value()),
        *signing,
        *(value.get_secret_value() for value in named),
    ]


def secret_parts(url: str) -> list[str]:
    """The address, and what in it may be a token: path, query, user and password, in every spelling in which a receiver
    may repeat it. The host is no secret: it says what does not answer."""
    try:
        sent = URL(url)  # what is sent is not what was written: `%2F` in a query goes out as `/`
    except ValueError:
        return [url]
    found = [part for spelling in (url, str(sent)) for part in _tokens(spelling)]
    if sent.user or sent.password:
        pair = f"{sent.user or ''}:{sent.password or ''}"  # as aiohttp puts it into Authorization
        found += [sent.password or "", base64.b64encode(pair.encode("latin1", "replace")).decode()]
    return [part for part in {*found, *map(unquote, found)} if part]


def _tokens(url: str) -> Sequence[str]:
    parts = urlsplit(url)
    pieces = [parts.username or "", *parts.path.split("/")]
    pieces += [pair.partition("=")[2] for pair in parts.query.split("&")]
    whole = [url, parts.password or "", f"{parts.path}?{parts.query}" if parts.query else "", parts.query]
    return [*whole, *(piece for piece in pieces if len(piece) >= 8)]
