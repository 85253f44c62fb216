"""Novu's terms as types. Times are seconds since the epoch."""

from dataclasses import dataclass, field
from typing import Any

CHANNELS = ("in_app", "email", "sms", "chat", "push")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a workflow. `type`: a channel, `delay` or `digest`; `seconds`: how long the latter two wait."""

    type: str
    seconds: float = 0.0
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A workflow. `required`: payload fields without which a trigger is refused."""

    id: str
    workflow_id: str
    created_at: float
    steps: tuple[Step, ...]
    active: bool = True
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An accepted trigger on its way to the worker. `size`: bytes of its JSON, 0 if not counted."""

    workflow: Workflow
    transaction_id: str
    to: Any
    payload: Any
    size: int = 0


@dataclass(slots=True, kw_only=True)
class Job:
    """One step of one notification: pending, delayed, completed or canceled. `due`: when a wait ends."""

    type: str
    status: str = "pending"
    due: float = 0.0


@dataclass(slots=True, kw_only=True)
class Message:
    """What a person got on one channel. A deleted message is kept: Novu's deletes are soft."""

    channel: str
    created_at: float
    deleted_at: float | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Notification:
    """One event for one subscriber: its jobs, the first of which is `trigger`, and the messages they made.

    `copy`: how many notifications of the same transaction and subscriber came before; above zero it is a double
    delivery.
    """

    seq: int
    transaction_id: str
    workflow: Workflow
    subscriber_id: str
    payload: Any
    created_at: float
    changed_at: float
    copy: int = 0
    jobs: list[Job] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    @property
    def state(self) -> str:
        """`deleted`, `cancelled`, `delivered`, `waiting` (for the end of a delay) or `done`."""
        if self.messages:
            return "deleted" if all(message.deleted_at is not None for message in self.messages) else "delivered"
        statuses = {job.status for job in self.jobs}
        return "cancelled" if "canceled" in statuses else "waiting" if "delayed" in statuses else "done"

    @property
    def due(self) -> float | None:
        """When the present wait ends, if there is one."""
        return next((job.due for job in self.jobs if job.status == "delayed"), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A body that a plain webhook got. `repeat`: how many with the same `id` came to the same name before."""

    seq: int
    name: str
    body: Any
    at: float
    repeat: int = 0


@dataclass(slots=True, kw_only=True)
class Counters:
    """What happened since the start."""

    requests: int = 0
    events: int = 0
    messages: int = 0
    doubles: int = 0
    repeats_dropped: int = 0
    cancelled: int = 0
    deleted: int = 0
    undeliverable: int = 0
    webhooks: int = 0
    replays: int = 0
