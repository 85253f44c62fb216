"""The contracts of channels and level outputs, and the types that pass through them.

A channel is one module or package here: `Config`, `Options`, `build`, and one line in `tocsin.registry`. It only sends
and returns the result; retries, order, rate limits, dead letters and metrics belong to the dispatcher.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tocsin.envelope import Envelope
from tocsin.errors import Reason
from tocsin.model import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a channel is given to send.

    `id` is the notification's id, and `key` its idempotency key at the receiver. `earlier` holds the ids of the
    notifications of the same episode that this channel has already delivered, oldest first, for the kinds in the
    channel's `needs_previous_ids`. `age`: seconds since the transition was committed. `attempts`: the attempts before
    this one. `generation`: see `Notification`.

    Where several notifications were merged (`interval`), `kind` and `envelope` are those of the newest of the most
    urgent (anything that fired before anything that resolved), `id` is that of the oldest, and the envelope's key
    `merged` lists the envelopes of all, oldest first.
    """

    id: str
    alert: str
    kind: Kind
    envelope: Envelope
    earlier: tuple[str, ...] = ()
    age: float = 0.0
    attempts: int = 0
    generation: int = 0

    @property
    def key(self) -> str:
        """The idempotency key: the id, until a final error may be stored under that."""
        return f"{self.id}_{self.generation}" if self.generation else self.id


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it. Not `told`: there was nothing to tell, so the time until now says nothing of the receiver
    (a cancel that finds nothing may wait for it)."""

    note: str = ""
    told: bool = True


@dataclass(frozen=True, slots=True)
class Retry:
    """Not delivered, or not known to be: try again, not before `after` seconds if given (a Retry-After).

    `free`: the attempt does not count against `max_attempts` (the receiver asked to wait).
    """

    reason: Reason
    detail: str = ""
    after: float | None = None
    free: bool = False

    @property
    def unknown(self) -> bool:
        """Whether the receiver may have accepted the request all the same. Then the repeat must be the same request."""
        return self.reason not in (Reason.RATE_LIMITED, Reason.TOO_EARLY)


@dataclass(frozen=True, slots=True)
class AskAgain(Retry):
    """Nothing failed, but the notification is not finished: send it again exactly `after` seconds from now, without
    backoff. Notifications of later episodes do not wait for it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The receiver, or the channel itself, will never take this one: it becomes a dead letter, or is cut in parts if it
    is a digest that is too large.

    `unsent`: the channel saw it before it sent anything, so the receiver knows nothing of it."""

    reason: Reason
    detail: str = ""
    unsent: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Paused:
    """The channel as a whole cannot deliver (credentials, plan): everything waits, and it shows."""

    reason: Reason
    detail: str = ""


Result = Delivered | Retry | Rejected | Paused


class Channel(Protocol):
    """The contract that every channel keeps (`tests/contract/test_channels.py` runs one suite over all of them)."""

    needs_previous_ids: AbstractSet[Kind]
    """For which kinds of notification the ids in `Message.earlier` are wanted; looking them up costs a query."""

    def take(self, pending: int) -> int:
        """How many of `pending` messages of different episodes to send in the next call: at least one."""
        ...

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        """Send, and tell for each message, in order, how it went.

        An exception is a defect of the channel: the dispatcher counts it as `Retry(Reason.INTERNAL)` for every message.
        Never holds the event loop; never sends one id twice at the same time.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Request(Protocol):
    """One request to a receiver, made and not sent yet. Its idempotency key is that of its message; of several
    messages, one that is derived from their keys, in order."""

    @property
    def messages(self) -> Sequence[Message]:
        """What is in it, in order: at least one message."""
        ...

    async def send(self) -> Sequence[Result]:
        """Send it, and return the result of each message, in order. The same contract as `Channel.send`."""
        ...

    def smaller(self) -> Sequence[Sequence[Message]]:
        """The requests to send instead, where the receiver rejected this one of several messages as a whole."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How messages go to a receiver. `decided`: by id, the results of those that no request is made for."""

    requests: Sequence[Request]
    decided: Mapping[str, Result]


@runtime_checkable
class Bulking(Protocol):
    """A channel that sends several messages in one request with one idempotency key.

    The dispatcher writes to the ledger which messages are in a request before it is sent, and repeats it as it is until
    its outcome is known."""

    def plan(self, messages: Sequence[Message]) -> Plan:
        """Make the requests, and send nothing. The same messages in the same order always give the same requests, byte
        by byte: neither time nor attempts are in them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Something that stands and that a level output tells of: it fires, or it has ended a short while ago.

    `identity` is what the receiver knows it by: firings with the same one are one thing there. `content` is what the
    receiver is told of it, in whatever form the output likes; what is equal need not be told again before its time.
    `started_at` and `ended_at` are wall-clock seconds, the latter None while it fires.
    """

    identity: str
    content: object
    started_at: float
    ended_at: float | None = None


class Level(Protocol):
    """An output that is told what fires now rather than each notification: it has no outbox, since whatever was lost is
    told again soon."""

    receivers: Sequence[str]
    """By name, all of which are told everything. A name is shown, so it holds no secret."""

    def standing(self, envelope: Envelope, now: float) -> Standing:
        """How a firing is told. Pure, since it may be called in a thread; never raises for what a row holds."""
        ...

    async def push(self, receiver: str, standings: Sequence[Standing], now: float) -> Sequence[Result]:
        """Tell one receiver, and say for each, in order, how it went. Never holds the event loop.

        An exception is a defect of the output: it counts as `Retry(Reason.INTERNAL)` for everything.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
