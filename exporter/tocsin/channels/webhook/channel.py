"""The webhook channels: one request for each notification, or one for several."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tocsin.channels.base import BatchingChannel, Channel, Message, Paused, Plan, Rejected, Request, Result
from tocsin.channels.batching import batched, halves
from tocsin.channels.http import Answer, Client, classify, readable
from tocsin.channels.webhook.request import BODILESS, Target
from tocsin.channels.webhook.settings import Config, Options
from tocsin.envelope import scope
from tocsin.errors import Reason
from tocsin.redaction import SECRET, masked, masker, redactor
from tocsin.signing import Signer
from tocsin.templates import FixedNames, TemplateError


@dataclass(frozen=True, slots=True)
class Draft:
    """A notification's request, or its part of one. `kind`: the Content-Type."""

    message: Message
    target: Target
    kind: str
    body: bytes


class Webhook(Channel):
    """One request for each notification, on kept connections."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self._name = name
        self._config = config
        self._now = now
        self._secrets = config.named_secrets()
        self._recipe = config.recipe()
        self._contents = {alert: config.content(options) for alert, options in routes.items()}
        self._default = config.content(config)
        self._success = config.statuses()
        signing = config.signing_secret
        self._signer = Signer(signing.get_secret_value().split()) if signing is not None else None
        self._confidential = config.confidential()
        constant = self._recipe.constant
        self._redact_constant = redactor([*self._confidential, *(constant.secrets() if constant else ())])
        private = self._recipe.fixed_host if config.allow_private is None else config.allow_private
        self._client = Client(config.timeout, now, public_only=not private, limit=config.concurrency)

    def __repr__(self) -> str:
        return f"Webhook({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        if len(messages) == 1:  # as the dispatcher does it; another task would cost a tenth of a request
            return [await self._send_one(messages[0])]
        return await asyncio.gather(*(self._send_one(message) for message in messages))

    async def close(self) -> None:
        await self._client.close()

    def preview(self, message: Message) -> Mapping[str, Any] | Rejected:
        draft = self._draft(message)
        if isinstance(draft, Rejected):
            return draft
        target = draft.target
        headers = {**dict.fromkeys(dict(target.headers), SECRET), "Idempotency-Key": message.key}
        if self._signer is not None:
            signed = self._signer.headers(message.id, 0, b"")
            headers |= {**dict.fromkeys(signed, "<made when it is sent>"), "webhook-id": message.id}
        shown: dict[str, Any] = {"method": target.method, "url": target.shown(), "headers": headers}
        if target.method not in BODILESS:
            headers["Content-Type"] = draft.kind
            # Rendered again with marks in place of secrets: a template may encode a secret, so that no search finds it.
            marks = FixedNames(dict.fromkeys(self._secrets, SECRET))
            content = self._contents.get(message.alert, self._default)
            body = content.render(message.envelope, {**scope(message.envelope), "secrets": marks})
            shown["body"] = masked(readable(self._whole([body])), masker(self._config.tokens()))
        return shown

    def _whole(self, bodies: Sequence[bytes]) -> bytes:
        """The body of a request of so many notifications."""
        return bodies[0]

    async def _send_one(self, message: Message) -> Result:
        draft = self._draft(message)
        return draft if isinstance(draft, Rejected) else await self._post(draft, draft.body, message.id, message.key)

    def _draft(self, message: Message) -> Draft | Rejected:
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
            return Rejected(Reason.TEMPLATE, self._redact_constant(f"{message.alert}: {error}"))
        if len(body) > self._config.max_body:
            detail = f"the body has {len(body)} bytes, more than max_body allows ({self._config.max_body})"
            return Rejected(Reason.TOO_LARGE, detail, unsent=True)
        return Draft(message, target, content.kind, body)

    async def _post(self, draft: Draft, content: bytes, id_: str, key: str) -> Result:
        """Send one request to the target of a draft. `key`: its idempotency key."""
        target = draft.target
        body = None if target.method in BODILESS else content
        headers = {**dict(target.headers), "Idempotency-Key": key}
        if body is not None:
            headers["Content-Type"] = draft.kind
        if self._signer is not None:
            headers |= self._signer.headers(id_, int(self._now()), body or b"")
        redact = partial(self._redact, target)
        answer = await self._client.request(
            target.method, target.url, headers=headers, body=body, success=self._success, redact=redact
        )
        return self._failure(answer) if isinstance(answer, Answer) else answer

    def _failure(self, answer: Answer) -> Result:
        if 300 <= answer.status < 400:
            detail = f"{answer.status}: the receiver redirects, which is not followed; set the final address as url"
            return Rejected(Reason.REJECTED, detail)
        if answer.status < 300:
            return Rejected(Reason.REJECTED, f"not among the statuses in success: {answer.detail}")
        result = classify(answer.status, answer.detail, answer.after)
        if isinstance(result, Paused) and not self._recipe.fixed_host:
            return Rejected(result.reason, result.detail)  # one receiver of many says nothing of the others
        return result

    def _redact(self, target: Target, text: str) -> str:
        """Make a text about a request to this target fit to be shown."""
        if target is self._recipe.constant:
            return self._redact_constant(text)
        return redactor([*self._confidential, *target.secrets()])(text)


class BatchWebhook(BatchingChannel, Webhook):
    """One request for several notifications (`batch`)."""

    def batch_size(self, pending: int) -> int:
        return min(pending, self._config.batch_size)

    def plan(self, messages: Sequence[Message]) -> Plan:
        decided: dict[str, Result] = {}
        groups: dict[tuple[Target, str], list[Draft]] = {}
        for message in messages:
            draft = self._draft(message)
            if isinstance(draft, Rejected):
                decided[message.id] = draft
            else:
                groups.setdefault((draft.target, draft.kind), []).append(draft)
        most, room = self._config.batch_size, self._config.batch_bytes - 1
        return Plan(
            [
                self._request(batch)
                for drafts in groups.values()
                for batch in batched(drafts, lambda draft: len(draft.body) + 1, most=most, most_bytes=room)
            ],
            decided,
        )

    def _whole(self, bodies: Sequence[bytes]) -> bytes:
        return b"[" + b",".join(bodies) + b"]" if self._config.batch == "array" else b"\n".join(bodies) + b"\n"

    def _request(self, drafts: Sequence[Draft]) -> Request:
        messages = [draft.message for draft in drafts]
        # The receiver does not say which notification it refuses.
        return Request(messages=messages, send=partial(self._post_together, drafts), parts=halves(messages))

    async def _post_together(self, drafts: Sequence[Draft]) -> Sequence[Result]:
        """Send one request of several notifications. The same ones in the same order have the same key."""
        body = self._whole([draft.body for draft in drafts])
        id_, key = drafts[0].message.id, drafts[0].message.key
        if len(drafts) > 1:
            id_ = key = hashlib.sha256(" ".join(draft.message.key for draft in drafts).encode()).hexdigest()[:32]
        return [await self._post(drafts[0], body, id_, key)] * len(drafts)
