"""A channel that sends each notification as one HTTP request with a JSON body."""

import asyncio
import io
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

import aiohttp
from pydantic import Field, field_validator
from yarl import URL

from tocsin.channels import Delivered, Message, Rejected, Result, Retry
from tocsin.channels.base import ChannelConfig, ChannelOptions, classify, json_bytes, redactor, retry_after
from tocsin.envelope import scope
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.settings import Secret
from tocsin.templates import Structure, TemplateError

MAX_ANSWER = 16384
"""Bytes of an answer that are read."""

_LARGE = 65536


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    body: dict[str, Any] | list[Any] | None = None
    """The JSON to send, every string in it a template over the envelope's keys. Without it, the envelope."""

    @field_validator("body")
    @classmethod
    def _compiles(cls, body: Any) -> Any:
        Structure(body, place="body")
        return body


class Config(ChannelConfig, Options):
    """A receiver of webhooks. It gets each notification at least once and can tell repeats by the `Idempotency-Key`
    header."""

    secrets: ClassVar[tuple[str, ...]] = ("url",)

    type: Literal["webhook"]
    """The kind of channel."""

    url: Secret
    """Where to send, http or https. Taken for a secret: many receivers have a token in it."""

    url_file: str | None = None
    """A file that holds the url."""

    method: Literal["POST", "PUT", "PATCH"] = "POST"
    """The HTTP method."""

    headers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")], Secret] = Field(default_factory=dict)
    """Headers to add, for example Authorization. Their values are secrets."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: Secret) -> Secret:
        parts = urlsplit(url.get_secret_value())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write a whole address, such as https://example.com/hook")
        return url

    @field_validator("headers")
    @classmethod
    def _are_single_lines(cls, headers: dict[str, Secret]) -> dict[str, Secret]:
        for name, value in headers.items():
            if not value.get_secret_value().isprintable():
                raise ValueError(f"{name}: a header value is one line of printable characters")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"{name} is set by Tocsin")
        return headers


_OWN_HEADERS = {"idempotency-key", "content-type", "content-length", "host"}


def build(
    name: str, config: Config, routes: Mapping[str, Options], *, now: Callable[[], float] = time.time
) -> "Webhook":
    """Make the channel. `now` is the wall clock, for dates in `Retry-After`."""
    return Webhook(name, config, routes, now)


class Webhook:
    """One request per notification on kept connections."""

    wants_earlier: AbstractSet[Kind] = frozenset()

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self._name = name
        self._config = config
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._bodies = {
            alert: Structure(options.body, place=f"{alert}: body")
            for alert, options in routes.items()
            if options.body is not None
        }
        self._url = config.url.get_secret_value()
        self._headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        self._redact = redactor([*_secret_parts(self._url), *self._headers.values()])

    def __repr__(self) -> str:
        return f"Webhook({self._name!r})"

    def take(self, pending: int) -> int:
        return min(pending, 1)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def verify(self) -> list[str]:
        """Problems found by asking the receiver: a webhook has no harmless question."""
        return []

    async def _send(self, message: Message) -> Result:
        try:
            body = self._body(message)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(str(error)))
        headers = {**self._headers, "Content-Type": "application/json", "Idempotency-Key": message.id}
        try:
            # aiohttp sends bytes in one piece, which holds the loop when they are many; a file it sends in parts.
            data = body if len(body) < _LARGE else io.BytesIO(body)
            async with self._connected().request(
                self._config.method, self._url, data=data, headers=headers, allow_redirects=False
            ) as response:
                if 200 <= response.status < 300:
                    return Delivered()
                return await self._failure(response)
        except TimeoutError:
            return Retry(Reason.TIMEOUT, f"no answer within {self._config.timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Retry(Reason.CONNECTION, self._redact(str(error) or type(error).__name__))

    def _body(self, message: Message) -> bytes:
        template = self._bodies.get(message.alert)
        return json_bytes(message.envelope if template is None else template.render(scope(message.envelope)))

    async def _failure(self, response: aiohttp.ClientResponse) -> Result:
        status = response.status
        if 300 <= status < 400:
            detail = f"{status}: the receiver redirects, and redirects are not followed; set the final address as url"
            return Rejected(Reason.REJECTED, detail)
        text = await _beginning(response)
        after = retry_after(response.headers.get("Retry-After"), self._now())
        return classify(status, self._redact(f"{status} {text}"), after)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._config.timeout),
                connector=aiohttp.TCPConnector(limit=self._config.concurrency),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The first bytes of an answer whose status is known already: what goes wrong now changes nothing."""
    content = bytearray()
    try:
        while len(content) < MAX_ANSWER and (chunk := await response.content.read(MAX_ANSWER - len(content))):
            content += chunk
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    return content.decode("utf-8", "replace")


def _secret_parts(url: str) -> list[str]:
    """The address, and what in it may be a token: path, query, user and password, in every spelling in which a receiver
    may repeat it. The host is no secret: it says what does not answer."""
    sent = URL(url)  # what is sent is not what was written: `%2F` in a query goes out as `/`
    found = [part for spelling in (url, str(sent)) for part in _tokens(spelling)]
    if sent.user or sent.password:
        credentials = aiohttp.BasicAuth(sent.user or "", sent.password or "")
        found += [sent.password or "", credentials.encode().partition(" ")[2]]
    return [part for part in {*found, *map(unquote, found)} if part]


def _tokens(url: str) -> list[str]:
    parts = urlsplit(url)
    pieces = [parts.username or "", *parts.path.split("/")]
    pieces += [pair.partition("=")[2] for pair in parts.query.split("&")]
    whole = [url, parts.password or "", f"{parts.path}?{parts.query}" if parts.query else "", parts.query]
    return [*whole, *(piece for piece in pieces if len(piece) >= 8)]
