"""The email channel: one mail per message, and which of its recipients have it."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import structlog

from tocsin.channels.base import Channel, Delivered, Message, Rejected, Result, Retry
from tocsin.channels.email.mail import Mail, Route
from tocsin.channels.email.server import Answer, Outcome, Server
from tocsin.channels.email.settings import Config, Options
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.redaction import redactor
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_REMEMBERED = 10_000


class Email(Channel):
    """One mail per message, to all its recipients at once."""

    needs_previous_ids: AbstractSet[Kind] = frozenset({Kind.UPDATED, Kind.REPEATED, Kind.RESOLVED})

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], now: Callable[[], float]) -> None:
        self._name = name
        self._now = now
        self._routes = {alert: Route(alert, options) for alert, options in routes.items()}
        self._default = Route(name, config)
        self._redact = redactor(_secrets(config))
        self._server = Server(config, self._redact)
        self._slots = asyncio.Semaphore(config.concurrency)
        # Message id -> address -> why the server refused it, None if it has the mail. Kept while some recipients are
        # retried. After a restart, a repeat reaches all of them again, under the same Message-ID.
        self._settled: dict[str, dict[str, Answer | None]] = {}
        self._refusals = Repeats(log, "recipient refused")

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

    async def _send(self, message: Message) -> Result:
        route = self._routes.get(message.alert, self._default)
        # A mail with a large row or a long digest takes a tenth of a second to render.
        mail = await asyncio.to_thread(route.mail, message, self._now() - message.age)
        if isinstance(mail, Rejected):
            return Rejected(mail.reason, self._redact(mail.detail))
        settled = self._settled.get(message.id, {})
        waiting = [one.spec for one in mail.recipients if one.spec not in settled]
        async with self._slots:
            outcome = await self._server.send(mail, waiting) if waiting else Outcome()
        if not isinstance(outcome, Outcome):
            return outcome
        return self._result(message, mail, outcome)

    def _result(self, message: Message, mail: Mail, outcome: Outcome) -> Result:
        refused = {address: answer for address, answer in outcome.refused.items() if answer.permanent}
        settled = {**self._settled.pop(message.id, {}), **dict.fromkeys(outcome.accepted), **refused}
        for address, answer in refused.items():
            self._refusals.add(address, channel=self._name, id=message.id, recipient=address, answer=str(answer))
        have = sum(answer is None for answer in settled.values())
        left = {address: answer for address, answer in outcome.refused.items() if not answer.permanent}
        if left:
            self._remember(message.id, settled)
            address, answer = next(iter(left.items()))
            reason = self._server.verdict(answer).reason
            return Retry(reason, self._redact(f"{have} of {len(mail.recipients)} have it; {address}: {answer}"))
        never = [*mail.refused, *(f"{address}: {answer}" for address, answer in settled.items() if answer)]
        note = self._redact("refused: " + "; ".join(never)) if never else ""
        return Delivered(note) if have else Rejected(Reason.REJECTED, note)

    def _remember(self, id_: str, settled: dict[str, Answer | None]) -> None:
        self._settled[id_] = settled
        while len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]


def _secrets(config: Config) -> list[str]:
    """Return the password in clear and as the protocol encodes it."""
    if config.password is None:
        return []
    password = config.password.get_secret_value()
    plain = f"\0{config.username}\0{password}"
    return [password, *(base64.b64encode(text.encode()).decode() for text in (password, plain))]
