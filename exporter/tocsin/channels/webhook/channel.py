"""The webhook channels: one request for each notification, or one for several."""

import asyncio
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from tocsin.channels.base import Channel, Delivered, Message, Paused, Plan, Rejected, Request, Result, Retry
from tocsin.channels.batching import halves, send_planned
from tocsin.channels.http import classify, retry_after
from tocsin.channels.webhook.addresses import PrivateAddressError, public_socket
from tocsin.channels.webhook.request import BODILESS, Target
from tocsin.channels.webhook.settings import Config, Options
from tocsin.envelope import scope
from tocsin.errors import Reason
from tocsin.redaction import redactor
from tocsin.signing import Signer
from tocsin.templates import TemplateError

MAX_ANSWER = 16384
"""Bytes of an answer that are read."""

_LARGE = 65536


@dataclass(frozen=True, slots=True)
class Draft:
    """A request, or one notification's part of it. `id`, `key`: of the message; `kind`: the Content-Type."""

    id: str
    key: str
    target: Target
    kind: str
    body: bytes


class Webhook(Channel):
    """One request for each notification, on kept connections."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self._name = name
        self.config = config
        self._now = now
        self._session: aiohttp.ClientSession | None = None
        self._secrets = config.named_secrets()
        self._recipe = config.recipe()
        self._contents = {alert: config.content(options) for alert, options in routes.items()}
        self._default = config.content(config)
        self._success = config.statuses()
        signing = config.signing_secret
        self._signer = Signer(signing.get_secret_value().split()) if signing is not None else None
        self._confidential = config.confidential()
        constant = self._recipe.constant
        self._redact = redactor([*self._confidential, *(constant.secrets() if constant else ())])

    def __repr__(self) -> str:
        return f"Webhook({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        if len(messages) == 1:  # as the dispatcher does it; another task would cost a tenth of a request
            return [await self._send_one(messages[0])]
        return await asyncio.gather(*(self._send_one(message) for message in messages))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def draft(self, message: Message) -> Draft | Rejected:
        """Make the request of a notification; nothing is sent."""
        content = self._contents.get(message.alert, self._default)
        target = self._recipe.constant
        try:
            if target is not None and content.plain:
                body = content.render(message.envelope, {})
            else:
                variables = {**scope(message.envelope), "secrets": self._secrets}
                target = self._recipe.target(variables)
                body = content.render(message.envelope, variables)
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, self._redact(f"{message.alert}: {error}"))
        if len(body) > self.config.max_body:
            detail = f"the body has {len(body)} bytes, more than max_body allows ({self.config.max_body})"
            return Rejected(Reason.TOO_LARGE, detail, unsent=True)
        return Draft(message.id, message.key, target, content.kind, body)

    async def _send_one(self, message: Message) -> Result:
        draft = self.draft(message)
        return draft if isinstance(draft, Rejected) else await self.post(draft)

    async def post(self, draft: Draft) -> Result:
        """Send one request. Never raises."""
        target = draft.target
        body = None if target.method in BODILESS else draft.body
        headers = {**dict(target.headers), "Idempotency-Key": draft.key}
        if body is not None:
            headers["Content-Type"] = draft.kind
        if self._signer is not None:
            headers |= self._signer.headers(draft.id, int(self._now()), body or b"")
        # aiohttp writes bytes in one piece, which blocks the loop when they are many, and a file in parts.
        data = body if body is None or len(body) < _LARGE else io.BytesIO(body)
        try:
            async with self._connected().request(
                target.method, target.url, data=data, headers=headers, allow_redirects=False
            ) as response:
                return Delivered() if response.status in self._success else await self._failure(response, target)
        except TimeoutError:
            return Retry(Reason.TIMEOUT, f"no answer within {self.config.timeout:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            redact = self._redactor(target)
            if isinstance(error, aiohttp.InvalidURL):
                return Rejected(Reason.REJECTED, redact(f"the address is not valid: {error}"))
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PrivateAddressError):
                detail = f"{error.host} has a private address, which is refused; set allow_private if it is meant"
                return Rejected(Reason.REJECTED, redact(detail))
            return Retry(Reason.CONNECTION, redact(str(error) or type(error).__name__))

    async def _failure(self, response: aiohttp.ClientResponse, target: Target) -> Result:
        status = response.status
        if 300 <= status < 400:
            detail = f"{status}: the receiver redirects, which is not followed; set the final address as url"
            return Rejected(Reason.REJECTED, detail)
        text = self._redactor(target)(f"{status} {await _beginning(response)}")
        if status < 300:
            return Rejected(Reason.REJECTED, f"not among the statuses in success: {text}")
        result = classify(status, text, retry_after(response.headers.get("Retry-After"), self._now()))
        if isinstance(result, Paused) and not self._recipe.fixed_host:
            return Rejected(result.reason, result.detail)  # one receiver of many says nothing of the others
        return result

    def _redactor(self, target: Target) -> Callable[[str], str]:
        """The redactor for text about a request to this target."""
        if target is self._recipe.constant:
            return self._redact
        return redactor([*self._confidential, *target.secrets()])

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            allowed = self._recipe.fixed_host if self.config.allow_private is None else self.config.allow_private
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.config.timeout),
                connector=aiohttp.TCPConnector(
                    limit=self.config.concurrency, socket_factory=None if allowed else public_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class BatchWebhook(Webhook):
    """One request for several notifications (`batch`)."""

    def batch_size(self, pending: int) -> int:
        return min(pending, self.config.batch_size)

    def plan(self, messages: Sequence[Message]) -> Plan:
        decided: dict[str, Result] = {}
        groups: dict[tuple[Target, str], list[tuple[Message, Draft]]] = {}
        for message in messages:
            draft = self.draft(message)
            if isinstance(draft, Rejected):
                decided[message.id] = draft
            else:
                groups.setdefault((draft.target, draft.kind), []).append((message, draft))
        requests: list[Request] = [_Batch(self, batch) for drafts in groups.values() for batch in self._batches(drafts)]
        return Plan(requests, decided)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await send_planned(self, messages)

    def joined(self, drafts: Sequence[Draft]) -> Draft:
        """One request of several notifications. The same ones in the same order have the same key."""
        bodies = [draft.body for draft in drafts]
        body = b"[" + b",".join(bodies) + b"]" if self.config.batch == "array" else b"\n".join(bodies) + b"\n"
        id_, key = drafts[0].id, drafts[0].key
        if len(drafts) > 1:
            id_ = key = hashlib.sha256(" ".join(draft.key for draft in drafts).encode()).hexdigest()[:32]
        return Draft(id_, key, drafts[0].target, drafts[0].kind, body)

    def _batches(self, drafts: Sequence[tuple[Message, Draft]]) -> list[list[tuple[Message, Draft]]]:
        batches: list[list[tuple[Message, Draft]]] = []
        room = 0
        for message, draft in drafts:
            length = len(draft.body) + 1
            if not batches or length > room or len(batches[-1]) >= self.config.batch_size:
                batches.append([])
                room = self.config.batch_bytes - 1
            batches[-1].append((message, draft))
            room -= length
        return batches


@dataclass(frozen=True, slots=True)
class _Batch:
    """One request of one notification or of several."""

    channel: BatchWebhook
    drafts: Sequence[tuple[Message, Draft]]

    @property
    def messages(self) -> Sequence[Message]:
        return [message for message, _ in self.drafts]

    async def send(self) -> Sequence[Result]:
        joined = self.channel.joined([draft for _, draft in self.drafts])
        return [await self.channel.post(joined)] * len(self.drafts)

    def split(self) -> Sequence[Sequence[Message]]:
        # The receiver does not say which notification it refuses.
        return halves(self.messages)


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The first bytes of an answer. Its status is known, so a failure while reading changes nothing."""
    content = bytearray()
    try:
        while len(content) < MAX_ANSWER and (chunk := await response.content.read(MAX_ANSWER - len(content))):
            content += chunk
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    return content.decode("utf-8", "replace")
