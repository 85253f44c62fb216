"""The webhook channel: one request per notification, or one for several."""

import asyncio
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import aiohttp
from yarl import URL

from tocsin.channels import Delivered, Message, Paused, Plan, Rejected, Result, Retry
from tocsin.channels.base import classify, redactor, retry_after
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
from tocsin.channels.webhook.signing import Signer
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.templates import TemplateError

MAX_ANSWER = 16384
"""Bytes of an answer that are read."""

_LARGE = 65536
_FURTHER = 4.0
"""Seconds within which the further requests of one `send` begin. The dispatcher waits for all of them together, a few
seconds longer than for one."""

_KEPT = (307, 308)
"""Redirects that keep method and body."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A notification as it will be sent. `id`: of the message; `key`: the idempotency key; `kind`: the
    Content-Type."""

    id: str
    key: str
    target: Target
    kind: str
    body: bytes


class Webhook:
    """Requests on kept connections."""

    wants_earlier: AbstractSet[Kind] = frozenset()

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self._name = name
        self._config = config
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

    def take(self, pending: int) -> int:
        return min(pending, 1 if self._config.batch is None else self._config.batch_size)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        if self._config.batch is not None:
            return await self._send_together(messages)
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

    def _drafted(self, message: Message) -> _Draft | Rejected:
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
        if len(body) > self._config.max_body:
            detail = f"the body has {len(body)} bytes, more than max_body allows ({self._config.max_body})"
            return Rejected(Reason.TOO_LARGE, detail, unsent=True)
        return _Draft(message.id, message.key, target, content.kind, body)

    async def _send_alone(self, message: Message) -> Result:
        draft = self._drafted(message)
        return draft if isinstance(draft, Rejected) else await self._post(draft)

    # Several in one request.

    def plan(self, messages: Sequence[Message]) -> Plan:
        decided, chunks = self._divided(messages)
        by_id = {message.id: message for message in messages}
        return Plan([_Batch(self, chunk, [by_id[draft.id] for draft in chunk]) for chunk in chunks], decided)

    def _divided(self, messages: Sequence[Message]) -> tuple[dict[str, Result], list[list[_Draft]]]:
        """The results of what cannot be sent, and what goes in each request."""
        results: dict[str, Result] = {}
        groups: dict[tuple[Target, str], list[_Draft]] = {}
        for message in messages:
            draft = self._drafted(message)
            if isinstance(draft, Rejected):
                results[message.id] = draft
            else:
                groups.setdefault((draft.target, draft.kind), []).append(draft)
        if self._config.batch is None:
            return results, [[draft] for drafts in groups.values() for draft in drafts]
        return results, [chunk for drafts in groups.values() for chunk in self._chunks(drafts)]

    async def _send_together(self, messages: Sequence[Message]) -> Sequence[Result]:
        results, chunks = self._divided(messages)
        until = asyncio.get_running_loop().time() + _FURTHER
        late = Retry(Reason.TIMEOUT, "not sent yet: what went before it took too long", 0.0, free=True)
        first = True
        for chunk in chunks:
            if first or asyncio.get_running_loop().time() < until:
                results |= await self._post_together(chunk, until)
            else:
                results |= dict.fromkeys((draft.id for draft in chunk), late)
            first = False
        return [results[message.id] for message in messages]

    def _chunks(self, drafts: Sequence[_Draft]) -> list[list[_Draft]]:
        chunks: list[list[_Draft]] = []
        room = 0
        for draft in drafts:
            length = len(draft.body) + 1
            if not chunks or length > room or len(chunks[-1]) >= self._config.batch_size:
                chunks.append([])
                room = self._config.batch_bytes - 1
            chunks[-1].append(draft)
            room -= length
        return chunks

    async def _post_together(self, drafts: Sequence[_Draft], until: float) -> dict[str, Result]:
        """One request, whose answer counts for all. What is rejected together is halved until it is clear which ones
        are: a receiver cannot say which of them it does not like."""
        result = await self.post(drafts)
        if not isinstance(result, Rejected) or len(drafts) == 1:
            return dict.fromkeys((draft.id for draft in drafts), result)
        results: dict[str, Result] = {}
        middle = len(drafts) // 2
        for half in (drafts[:middle], drafts[middle:]):
            if asyncio.get_running_loop().time() < until:
                results |= await self._post_together(half, until)
            else:
                again = Retry(result.reason, f"rejected together with others: {result.detail}", 0.0)
                results |= dict.fromkeys((draft.id for draft in half), again)
        return results

    async def post(self, drafts: Sequence[_Draft]) -> Result:
        """Send one request: one notification, or a batch of them."""
        return await self._post(drafts[0] if self._config.batch is None else self._joined(drafts))

    def _joined(self, drafts: Sequence[_Draft]) -> _Draft:
        bodies = [draft.body for draft in drafts]
        body = b"[" + b",".join(bodies) + b"]" if self._config.batch == "array" else b"\n".join(bodies) + b"\n"
        if len(drafts) == 1:
            id_, key = drafts[0].id, drafts[0].key
        else:  # the same ones together are the same request
            id_ = key = hashlib.sha256(" ".join(draft.key for draft in drafts).encode()).hexdigest()[:32]
        return _Draft(id_, key, drafts[0].target, drafts[0].kind, body)

    # Sending.

    async def _post(self, draft: _Draft) -> Result:
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
            return Retry(Reason.TIMEOUT, f"no answer within {self._config.timeout:g} s")
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
        until = loop.time() + self._config.timeout
        url, timeout = target.url, session.timeout
        for _ in range(self._config.max_redirects + 1):
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
            if self._config.max_redirects == 0:
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
            allowed = self._config.allow_private
            if allowed is None:
                allowed = self._recipe.fixed_host and not self._config.max_redirects
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._config.timeout),
                connector=aiohttp.TCPConnector(
                    limit=self._config.concurrency, socket_factory=None if allowed else public_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


@dataclass(frozen=True, slots=True)
class _Batch:
    """One request of one notification or several."""

    channel: Webhook
    drafts: Sequence[_Draft]
    messages: Sequence[Message]

    async def send(self) -> Sequence[Result]:
        return [await self.channel.post(self.drafts)] * len(self.drafts)

    def smaller(self) -> Sequence[Sequence[Message]]:
        # The receiver cannot say which of them it does not take: halved until that is clear.
        middle = len(self.messages) // 2
        return [self.messages[:middle], self.messages[middle:]]


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
