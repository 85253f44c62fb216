"""A silence, and which of several holds back a notification."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tocsin.silences.matchers import Matchers


class State(StrEnum):
    """The state of a silence, in Alertmanager's words."""

    PENDING = "pending"
    """It has not begun."""
    ACTIVE = "active"
    EXPIRED = "expired"
    """It has ended by its time, or was ended early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Holds back the notifications whose labels match, from its start to its end. Wall-clock seconds."""

    id: str
    matchers: Matchers
    starts_at: float
    ends_at: float
    reason: str
    by: str = ""
    """Who made it."""
    created_at: float = 0.0
    closed_at: float | None = None
    """When what it held was sent on or dropped; None: not yet."""
    released: int = 0
    """How many notifications were sent on then."""
    dropped: int = 0
    """How many were dropped then."""

    def state(self, now: float) -> State:
        """The state at a time."""
        if self.closed_at is not None or now >= self.ends_at:
            return State.EXPIRED
        return State.ACTIVE if now >= self.starts_at else State.PENDING


class OpenSilences:
    """The silences of a ledger that have not been closed, in memory: no notification costs a query."""

    def __init__(self, found: Iterable[Silence] = ()) -> None:
        self.all: Sequence[Silence] = tuple(found)

    def active(self, now: float) -> tuple[Silence, ...]:
        """Those that hold back now, the one that ends last first."""
        if not self.all:
            return ()
        found = (one for one in self.all if one.state(now) is State.ACTIVE)
        return tuple(sorted(found, key=lambda one: (-one.ends_at, one.id)))

    def due(self, now: float) -> bool:
        """Whether one has ended, and is to be closed."""
        return any(one.ends_at <= now for one in self.all)


def first_match(silences: Iterable[Silence], labels: Mapping[str, str]) -> Silence | None:
    """The first silence that matches these labels."""
    return next((one for one in silences if one.matchers.match(labels)), None)
