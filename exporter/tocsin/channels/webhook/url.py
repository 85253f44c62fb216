"""The url of a webhook: a template whose values cannot change where the request goes."""

import base64
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote, urlsplit

from yarl import URL

from tocsin.channels.webhook.parts import VARIABLES, Part, Variables, encodable, part, rendered, unfit
from tocsin.settings import invalid
from tocsin.templates import Template, TemplateError

_EXPRESSION = re.compile(r"(\{\{.*?\}\})", re.DOTALL)
_URLENCODE = re.compile(r"\|\s*urlencode\s*(\(\s*\))?\s*-?\}\}$")
_WITH_HOST = re.compile(r"https?://[^/?#]+[/?#]", re.IGNORECASE)


class UrlTemplate:
    """A url with expressions.

    What an expression prints is percent-encoded, so that no value can change the path, add a parameter or name another
    host. Exceptions: secrets, an expression at the very beginning, and one that ends in `| urlencode`.

    `constant`: whether it is the same for all notifications. `fixed_host`: whether no row can name the host.
    """

    def __init__(self, source: str, secrets: Mapping[str, str]) -> None:
        self._parts: list[tuple[Part, bool]] = []  # with whether the part is taken as it is
        for position, (text, expression) in enumerate(_split(source)):
            compiled = part(text, "url", secrets) if expression else text
            verbatim = isinstance(compiled, str) or position == 0 or bool(_URLENCODE.search(text))
            self._parts.append((compiled, verbatim))
        texts = [compiled if isinstance(compiled, str) else None for compiled, _ in self._parts]
        self.constant = None not in texts
        beginning = "".join(text or "" for text in texts[: None if self.constant else texts.index(None)])
        self.fixed_host = self.constant or _WITH_HOST.match(beginning) is not None

    def render(self, variables: Variables) -> URL:
        """Raises TemplateError."""
        return _parsed("".join(self._text(compiled, verbatim, variables) for compiled, verbatim in self._parts))

    @staticmethod
    def _text(compiled: Part, verbatim: bool, variables: Variables) -> str:
        text = rendered(compiled, variables)
        if verbatim:
            return text
        if text in (".", ".."):
            raise unfit("url", "a value of . or .. would change the path")
        return quote(encodable(text, "url"), safe="")


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


def _tokens(url: str) -> Sequence[str]:
    parts = urlsplit(url)
    pieces = [parts.username or "", *parts.path.split("/")]
    pieces += [pair.partition("=")[2] for pair in parts.query.split("&")]
    whole = [url, parts.password or "", f"{parts.path}?{parts.query}" if parts.query else "", parts.query]
    return [*whole, *(piece for piece in pieces if len(piece) >= 8)]


def _split(source: str) -> list[tuple[str, bool]]:
    """Texts and expressions in order, each with whether it is an expression."""
    pieces = enumerate(_EXPRESSION.split(source))
    return [(text, number % 2 == 1) for number, text in pieces if text]


def _parsed(text: str) -> URL:
    try:
        parts = urlsplit(text)
        url = URL(text)
        if parts.scheme in ("http", "https") and parts.hostname and url.host and url.port:
            return url
    except ValueError:
        pass
    raise unfit("url", "the rendered url is not a whole http or https address")
