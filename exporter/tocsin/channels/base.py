"""The contracts of channels and level outputs, and the types that pass through them.

A channel is one module or package here: `Config`, `Options`, `build`, and one line in `tocsin.registry`. It only sends
and returns the result; retries, order, rate limits, dead letters and metrics belong to the dispatcher.
"""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from tocsin.envelope import Envelope
from tocsin.errors import Reason
from tocsin.model import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a channel sends.

    Merged notifications (`interval`) are one message: `id` is that of the oldest; `kind` and `envelope` are those of
    the newest of the most urgent (fired before resolved); the envelope lists all of them under `merged`, oldest first.
    """

    id: str
    """The notification's id."""

    alert: str
    kind: Kind
    envelope: Envelope

    previous_ids: tuple[str, ...] = ()
    """The ids of this episode that the channel has delivered before, oldest first. Only for the kinds in the channel's
    `needs_previous_ids`."""

    age: float = 0.0
    """Seconds since the transition was committed."""

    attempts: int = 0
    """The attempts before this one."""

    generation: int = 0
    """See `Notification`."""

    @property
    def key(self) -> str:
        """The idempotency key: the id, until a final error may be stored under that."""
        return f"{self.id}_{self.generation}" if self.generation else self.id


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has accepted the message."""

    note: str = ""

    sent: bool = True
    """False where there was nothing to send: then the time until now does not count as a delivery time."""

    answer: str = field(default="", compare=False)
    """The receiver's, for people, where it is known without more work: a status, the name of a queue."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not delivered, or not known to be: to be sent again."""

    reason: Reason
    detail: str = ""

    after: float | None = None
    """Seconds to wait at least (Retry-After)."""

    free: bool = False
    """Whether the attempt does not count against `max_attempts`: the receiver asked to wait."""

    @property
    def unknown(self) -> bool:
        """Whether the receiver may have accepted the request all the same. Then the same request is repeated."""
        return self.reason not in (Reason.RATE_LIMITED, Reason.TOO_EARLY)


@dataclass(frozen=True, slots=True)
class Reschedule(Retry):
    """Nothing failed, but there is more to do: send it again exactly `after` seconds from now, without backoff. Later
    notifications of the same ordering key do not wait for it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The receiver, or the channel itself, will never accept the message. It becomes a dead letter; a digest that is
    too large is sent in parts."""

    reason: Reason
    detail: str = ""

    unsent: bool = field(default=False, compare=False)
    """Whether the channel rejected it before it sent anything."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The channel as a whole cannot deliver (credentials, plan): everything waits, and the status shows it."""

    reason: Reason
    detail: str = ""


Result = Delivered | Retry | Rejected | Paused


class Output(Protocol):
    """What channels and level outputs have in common, with defaults."""

    async def verify(self) -> Sequence[str]:
        """Ask the receiver, without sending a notification, whether it would accept one; a sentence for each problem,
        without a secret."""
        return ()

    def preview(self, message: Message) -> Mapping[str, Any] | Rejected:
        """The request that a message makes, as JSON for people, or why it is never sent. Sends nothing.

        No secret is in it: `<secret>` takes its place. `{"nothing": why}` where nothing would be sent. May be called
        in a thread.
        """
        return {"envelope": message.envelope}

    async def close(self) -> None:
        """Close connections. May be called twice."""
        return


class Channel(Output, Protocol):
    """The contract that every channel keeps (`tests/contract/test_channels.py` runs one suite over all of them)."""

    needs_previous_ids: AbstractSet[Kind] = frozenset()
    """The kinds of notification that need `Message.previous_ids`; each costs a query."""

    may_end_process: bool = False
    """Whether it calls code that is not Tocsin's in this process, which may end it. Then messages are sent one by one,
    and the ledger has a note of each attempt before it begins. Not for a `BatchingChannel`."""

    def batch_size(self, pending: int) -> int:
        """How many of `pending` messages to send in the next call, at least one."""
        return min(pending, 1)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        """Send messages of different ordering keys, and return the result of each, in order.

        An exception is a defect of the channel and counts as `Retry(Reason.INTERNAL)` for every message. Never blocks
        the event loop, and never sends one id twice at the same time.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to a receiver, built and not sent yet.

    Its idempotency key is that of its message; of several messages, one derived from their keys, in order.
    """

    messages: Sequence[Message]
    """What is in it, in order: at least one message."""

    send: Callable[[], Awaitable[Sequence[Result]]]
    """Sends it, and returns the result of each message, in order, as `Channel.send` does."""

    parts: Sequence[Sequence[Message]]
    """The requests to send instead, where the receiver rejects this one of several messages as a whole."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How messages go to a receiver."""

    requests: Sequence[Request]

    decided: Mapping[str, Result]
    """By id, the results of messages that are in no request."""


class BatchingChannel(Channel):
    """A channel that sends several messages in one request with one idempotency key.

    The dispatcher uses `plan`: it writes to the ledger which notifications are in a request before it is sent, and
    repeats the same request until its outcome is known.
    """

    @abstractmethod
    def plan(self, messages: Sequence[Message]) -> Plan:
        """Build the requests without sending anything.

        The same messages in the same order give the same requests, byte by byte, at any time and for any number of
        attempts.
        """

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        """Send each request of the plan once."""
        plan = self.plan(messages)
        results = dict(plan.decided)
        for request in plan.requests:
            sent = zip(request.messages, await request.send(), strict=True)
            results |= {message.id: result for message, result in sent}
        return [results[message.id] for message in messages]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveAlert:
    """An alert as a level output sends it: it fires, or it ended a short while ago."""

    identity: str
    """What the receiver knows it by: firings with the same identity are one alert there."""
    content: bytes
    """What is sent besides the times."""
    started_at: float
    """Wall-clock seconds."""
    ended_at: float | None = None
    """Wall-clock seconds; None while it fires."""


@runtime_checkable
class Level(Output, Protocol):
    """An output that is sent what fires now rather than each notification. It has no outbox: whatever is lost is sent
    again soon."""

    receivers: Sequence[str]
    """The names of the receivers, each of which gets everything. A name is shown, so it holds no secret."""

    def active(self, envelope: Envelope, now: float) -> ActiveAlert:
        """Render a firing. Pure, since it may be called in a thread; never raises for what a row holds."""
        ...

    async def push(self, receiver: str, alerts: Sequence[ActiveAlert], now: float) -> Sequence[Result]:
        """Send to one receiver, and return the result of each alert, in order. Never blocks the event loop.

        An exception is a defect of the output: it counts as `Retry(Reason.INTERNAL)` for every alert.
        """
        ...

    async def known(self, receiver: str) -> AbstractSet[str] | None:  # noqa: ARG002
        """Return the identities of what a receiver knows to fire; None where it cannot be asked."""
        return None
