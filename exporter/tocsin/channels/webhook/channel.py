"""The webhook channel: one request for each notification."""

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import aiohttp
from yarl import URL

from tocsin.channels.base import Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.channels.http import classify, retry_after
from tocsin.channels.webhook.addresses import PrivateAddressError, public_socket
from tocsin.channels.webhook.request import (
    BODILESS,
    Content,
    Recipe,
    Target,
    confidential,
    seen,
)
from tocsin.channels.webhook.settings import Config, Options
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.redaction import redactor
from tocsin.signing import Signer
from tocsin.templates import TemplateError

MAX_ANSWER = 16384
"""Bytes of an answer that are read."""

_LARGE = 65536
_KEPT = (307, 308)
"""Redirects that keep method and body."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A notification as it will be sent. `id`: of the message; `key`: the idempotency key; `kind`: the
    Content-Type."""

    id: str
    key: str
    target: Target
    kind: str
    body: bytes


class Webhook:
    """Requests on kept connections."""

    needs_previous_ids: AbstractSet[Kind] = frozenset()

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self._name = name
        self.config = config
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._secrets = {key: value.get_secret_value() for key, value in config.secret_values.items()}
        self._recipe = Recipe(config, self._secrets)
        self._contents = {alert: Content(options, config.batch) for alert, options in routes.items()}
        self._otherwise = Content(config, config.batch)
        self._success = config.statuses()
        signing = config.signing_secret
        self._signer = Signer(signing.get_secret_value().split()) if signing is not None else None
        self._confidential = confidential(config)
        self._redact = redactor([*self._confidential, *self._recipe.confidential()])

    def __repr__(self) -> str:
        return f"Webhook({self._name!r})"

    def batch_size(self, pending: int) -> int:
        return min(pending, 1)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        if len(messages) == 1:  # as the dispatcher does it; a task more would cost a tenth of a request
            return [await self._send_alone(messages[0])]
        return await asyncio.gather(*(self._send_alone(message) for message in messages))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def verify(self) -> list[str]:
        """Problems found by asking the receiver: a webhook has no harmless question."""
        return []

    # Making requests.

    def drafted(self, message: Message) -> Draft | Rejected:
        content = self._contents.get(message.alert, self._otherwise)
        target = self._recipe.constant
        try:
            if target is not None and content.plain:
                body = content.render(message.envelope, {})
            else:
                variables = seen(message.envelope, self._secrets)
                target = self._recipe.target(variables)
                body = content.render(message.envelope, variables)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(f"{message.alert}: {error}"))
        if len(body) > self.config.max_body:
            detail = f"the body has {len(body)} bytes, more than max_body allows ({self.config.max_body})"
            return Rejected(Reason.TOO_LARGE, detail, unsent=True)
        return Draft(message.id, message.key, target, content.kind, body)

    async def _send_alone(self, message: Message) -> Result:
        draft = self.drafted(message)
        return draft if isinstance(draft, Rejected) else await self.post(draft)

    # Sending.

    async def post(self, draft: Draft) -> Result:
        """One attempt, with the redirects that are followed. Never raises."""
        target = draft.target
        body = None if target.method in BODILESS else draft.body
        headers = {**dict(target.headers), "Idempotency-Key": draft.key}
        if body is not None:
            headers["Content-Type"] = draft.kind
        if self._signer is not None:
            headers |= self._signer.headers(draft.id, int(self._now()), body or b"")
        try:
            result = await self._follow(target, headers, body)
        except TimeoutError:
            return Retry(Reason.TIMEOUT, f"no answer within {self.config.timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = self._redactor(target)
            if isinstance(error, aiohttp.InvalidURL):
                return Rejected(Reason.REJECTED, words(f"the address is not valid: {error}"))
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PrivateAddressError):
                detail = f"{error.host} has a private address, which is refused; set allow_private if it is meant"
                return Rejected(Reason.REJECTED, words(detail))
            return Retry(Reason.CONNECTION, words(str(error) or type(error).__name__))
        if isinstance(result, Paused) and not self._recipe.fixed_host:
            return Rejected(result.reason, result.detail)  # one receiver of many says nothing of the others
        return result

    async def _follow(self, target: Target, headers: dict[str, str], body: bytes | None) -> Result:
        loop = asyncio.get_running_loop()
        session = self._connected()
        until = loop.time() + self.config.timeout
        url, timeout = target.url, session.timeout
        for _ in range(self.config.max_redirects + 1):
            # aiohttp sends bytes in one piece, which holds the loop when they are many; a file it sends in parts.
            data = body if body is None or len(body) < _LARGE else io.BytesIO(body)
            async with session.request(
                target.method, url, data=data, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                if response.status in self._success:
                    return Delivered()
                if not 300 <= response.status < 400:
                    return await self._failure(response, target)
                status, location = response.status, response.headers.get("Location", "")
            if self.config.max_redirects == 0:
                return _refused(status, "and redirects are not followed; set the final address as url")
            if status not in _KEPT:
                return _refused(status, "which does not keep method and body, so it is not followed")
            following = _following(url, location)
            if following is None:
                return _refused(status, "to something that is no safe address")
            if following.origin() != url.origin():
                headers = {name: text for name, text in headers.items() if (name, text) not in target.headers}
            url, timeout = following, aiohttp.ClientTimeout(total=max(until - loop.time(), 0.001))
        return _refused(status, "further than max_redirects allows")

    async def _failure(self, response: aiohttp.ClientResponse, target: Target) -> Result:
        words = self._redactor(target)
        status = response.status
        text = words(f"{status} {await _beginning(response)}")
        if status < 300:
            return Rejected(Reason.REJECTED, f"not among the statuses in success: {text}")
        return classify(status, text, retry_after(response.headers.get("Retry-After"), self._now()))

    def _redactor(self, target: Target) -> Callable[[str], str]:
        """What takes secrets out of words about a request to this target."""
        if target is self._recipe.constant:
            return self._redact
        return redactor([*self._confidential, *target.words()])

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            allowed = self.config.allow_private
            if allowed is None:
                allowed = self._recipe.fixed_host and not self.config.max_redirects
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.config.timeout),
                connector=aiohttp.TCPConnector(
                    limit=self.config.concurrency, socket_factory=None if allowed else public_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _refused(status: int, why: str) -> Rejected:
    return Rejected(Reason.REJECTED, f"{status}: the receiver redirects, {why}")


def _following(url: URL, location: str) -> URL | None:
    """Where a redirect leads; None for nowhere, for another scheme, and for https that leads to http."""
    try:
        following = url.join(URL(location))
        safe = following.scheme == "https" or following.scheme == url.scheme == "http"
        return following if location and safe and following.host else None
    except ValueError:
        return None


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The first bytes of an answer whose status is known already: what goes wrong now changes nothing."""
    content = bytearray()
    try:
        while len(content) < MAX_ANSWER and (chunk := await response.content.read(MAX_ANSWER - len(content))):
            content += chunk
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    return content.decode("utf-8", "replace")
