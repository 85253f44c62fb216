"""Receivers that answer as a script says, and keep what they were sent."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tocsin.channels.base import ActiveAlert, Channel, Delivered, Level, Message, Rejected, Result, Retry
from tocsin.channels.http import classify
from tocsin.envelope import Envelope
from tocsin.errors import Reason
from tocsin.model import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a receiver answers a request. Times are seconds."""

    status: int | None = 200
    """A status of HTTP, which for any channel means what it means for a webhook; None: no answer ever comes, and the
    attempt ends by the channel's `timeout`."""
    retry_after: float | None = None
    takes: float = 0.0
    """How long the answer takes."""
    refused: bool = False
    """The connection is refused."""
    killed: bool = False
    """The request is accepted, and Tocsin is killed before it can record that."""


ACCEPTED = Answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to send a notification."""

    at: float
    """Seconds since the start."""
    channel: str
    alert: str
    kind: Kind
    id: str
    number: int
    """Counts from 1, for each notification."""
    envelope: Envelope = field(repr=False)
    request: Mapping[str, Any]
    """What the channel's `preview` makes of it; empty where that is rejected."""
    result: Result | None
    """None: there was none, as Tocsin was killed."""

    @property
    def accepted(self) -> bool:
        """Whether the receiver has it."""
        return self.result is None or isinstance(self.result, Delivered)


class Receiver:
    """Where a channel sends to."""

    def __init__(self, channel: str, killed: Callable[[], None]) -> None:
        """`killed`: called when an answer is that Tocsin is killed."""
        self.channel = channel
        self.attempts: list[Attempt] = []
        self.answer = ACCEPTED
        """How requests are answered, once `following` is empty."""
        self.following: deque[Answer] = deque()
        """How the next requests are answered, one each."""
        self.active: dict[str, bytes] = {}
        """Of a level output: what it knows to fire, identity -> content."""
        self._killed = killed
        self._attempted: Counter[str] = Counter()

    @property
    def accepted(self) -> list[Attempt]:
        """What it has accepted, in order."""
        return [attempt for attempt in self.attempts if attempt.accepted]

    async def take(self, patience: float) -> Result:
        """Answer one request. `patience`: the timeout of the channel."""
        answer = self.following.popleft() if self.following else self.answer
        if answer.status is None or answer.takes >= patience:
            await asyncio.sleep(patience)
            return Retry(Reason.TIMEOUT, f"no answer within {patience:g} s")
        await asyncio.sleep(answer.takes)
        if answer.killed:
            self._killed()
        if answer.refused:
            return Retry(Reason.CONNECTION, "the connection is refused")
        return classify(answer.status, f"{answer.status}, as the test says", answer.retry_after)

    def was_killed(self) -> bool:
        """Whether the answer that comes next is that Tocsin is killed."""
        return bool(self.following) and self.following[0].killed

    def note(self, message: Message, request: Mapping[str, Any], result: Result | None, at: float) -> None:
        """Keep an attempt."""
        self._attempted[message.id] += 1
        self.attempts.append(
            Attempt(
                at=at,
                channel=self.channel,
                alert=message.alert,
                kind=message.kind,
                id=message.id,
                number=self._attempted[message.id],
                envelope=message.envelope,
                request=request,
                result=result,
            )
        )


class ScriptedChannel(Channel):
    """A channel that renders as a real one does, and sends to a scripted receiver, one message after another."""

    def __init__(self, real: Channel, receiver: Receiver, patience: float, now: Callable[[], float]) -> None:
        """`patience`: the timeout of the channel. `now`: seconds since the start."""
        self.needs_previous_ids = real.needs_previous_ids
        self._real = real
        self._receiver = receiver
        self._patience = patience
        self._now = now

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        return [await self._send(message) for message in messages]

    async def _send(self, message: Message) -> Result:
        preview, began, receiver = self._real.preview(message), self._now(), self._receiver
        if isinstance(preview, Rejected):
            receiver.note(message, {}, preview, began)
            return preview
        if "nothing" in preview:
            return Delivered(str(preview["nothing"]), sent=False)
        if receiver.was_killed():
            receiver.note(message, preview, None, began)
            await receiver.take(self._patience)
            await asyncio.Event().wait()  # until it is killed
        result = await receiver.take(self._patience)
        receiver.note(message, preview, result, began)
        return result

    async def close(self) -> None:
        await self._real.close()


class ScriptedLevel(Level):
    """A level output that renders as a real one does, and sends to one scripted receiver. Of what is sent again and
    again, an attempt is kept where the receiver did not know it."""

    def __init__(self, real: Level, receiver: Receiver, patience: float, now: Callable[[], float]) -> None:
        """See `ScriptedChannel`."""
        self.receivers = [*real.receivers][:1]
        self._real = real
        self._receiver = receiver
        self._patience = patience
        self._now = now
        self._envelopes: dict[str, Envelope] = {}

    def active(self, envelope: Envelope, now: float) -> ActiveAlert:
        alert = self._real.active(envelope, now)
        self._envelopes[alert.identity] = envelope
        return alert

    async def push(self, receiver: str, alerts: Sequence[ActiveAlert], now: float) -> Sequence[Result]:  # noqa: ARG002
        began = self._now()
        result = await self._receiver.take(self._patience)
        for alert in alerts:
            self._note(alert, result, began)
        return [result] * len(alerts)

    def _note(self, alert: ActiveAlert, result: Result, at: float) -> None:
        known, envelope = self._receiver.active, self._envelopes.get(alert.identity)
        before = known.get(alert.identity)
        if envelope is None or (alert.ended_at is None and before == alert.content):
            return
        if alert.ended_at is not None and before is None:
            return
        kind = Kind.RESOLVED if alert.ended_at is not None else Kind.FIRED if before is None else Kind.UPDATED
        message = Message(id=alert.identity, alert=envelope["alert"], kind=kind, envelope=envelope)
        preview = self._real.preview(message)
        self._receiver.note(message, {} if isinstance(preview, Rejected) else preview, result, at)
        if isinstance(result, Delivered):
            if alert.ended_at is None:
                known[alert.identity] = alert.content
            else:
                del known[alert.identity]

    async def close(self) -> None:
        await self._real.close()
