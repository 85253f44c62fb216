"""The email channel: one mail per message, and which of its recipients have it."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from tocsin.channels.base import Channel, Message, Rejected, Result
from tocsin.channels.email.addresses import Mailbox
from tocsin.channels.email.mail import MAX_SUBJECT, Route
from tocsin.channels.email.server import Server
from tocsin.channels.email.settings import Config, Options
from tocsin.channels.settled import Settled
from tocsin.model import Kind
from tocsin.redaction import masked, masker, one_line, redactor


class Email(Channel):
    """One mail per message, to all its recipients at once."""

    needs_previous_ids: AbstractSet[Kind] = frozenset({Kind.UPDATED, Kind.REPEATED, Kind.RESOLVED})

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self._name = name
        self._now = now
        self._routes = {alert: Route(alert, options) for alert, options in routes.items()}
        self._default = Route(name, config)
        self._redact = redactor(_secrets(config))
        self._mask = masker(_secrets(config))
        self._server = Server(config, self._redact)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._settled = Settled(name, self._redact, shown=True)

    def __repr__(self) -> str:
        return f"Email({self._name!r})"

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return await asyncio.gather(*(self._send(message) for message in messages))

    async def close(self) -> None:
        await self._server.close()

    async def verify(self) -> list[str]:
        """Connect and log in; returns problems as sentences."""
        failure = await self._server.greet()
        return [] if failure is None else [f"cannot log in to the server: {failure.detail}"]

    def preview(self, message: Message) -> Mapping[str, Any] | Rejected:
        route = self._routes.get(message.alert, self._default)
        draft = route.draft(message)
        if isinstance(draft, Rejected):
            return Rejected(draft.reason, self._redact(draft.detail))
        people = {field: [*map(_written, named)] for field, named in draft.people.items() if named}
        people |= {"refused": [*draft.refused]} if draft.refused else {}
        texts = {"subject": one_line(draft.subject, MAX_SUBJECT), "text": draft.text}
        texts |= {} if draft.html is None else {"html": draft.html}
        return masked({"from": _written(route.sender), **people, **texts}, self._mask)

    async def _send(self, message: Message) -> Result:
        route = self._routes.get(message.alert, self._default)
        # A mail with a large row or a long digest takes a tenth of a second to render.
        mail = await asyncio.to_thread(route.mail, message, self._now() - message.age)
        if isinstance(mail, Rejected):
            return Rejected(mail.reason, self._redact(mail.detail))
        async with self._slots:
            waiting = self._settled.waiting(message.id, (one.spec for one in mail.recipients))
            outcome = await self._server.send(mail, waiting) if waiting else {}
        if not isinstance(outcome, Mapping):
            return outcome
        for address, result in outcome.items():
            self._settled.add(message.id, address, result)
        return self._settled.result(message.id, outcome, mail.refused)


def _written(address: Mailbox) -> str:
    """An address for people, its name as it was written."""
    return f"{address.name} <{address.spec}>" if address.name else address.spec


def _secrets(config: Config) -> list[str]:
    """Return the password in clear and as the protocol encodes it."""
    if config.password is None:
        return []
    password = config.password.get_secret_value()
    plain = f"\0{config.username}\0{password}"
    return [password, *(base64.b64encode(text.encode()).decode() for text in (password, plain))]
