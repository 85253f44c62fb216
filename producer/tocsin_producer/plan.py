"""The numbers that define the schedule, with their defaults."""

import math
from dataclasses import dataclass, fields
from enum import StrEnum

from tocsin_producer.errors import PlanError


class Flaw(StrEnum):
    """The ways in which a malformed event is malformed."""

    BROKEN = "broken"
    """JSON cut off in the middle."""
    EMPTY = "empty"
    """No bytes at all."""
    ENCODING = "encoding"
    """Bytes that are not UTF-8."""
    TYPES = "types"
    """Valid JSON whose values have other types."""
    SHAPE = "shape"
    """Valid JSON that is not an object."""
    TEXT = "text"
    """A string with a NUL or half a surrogate pair: legal JSON that PostgreSQL's text cannot hold."""
    NULL = "null"
    """No value; Kafka calls this a tombstone."""
    OVERSIZED = "oversized"
    """A valid event with a name of `Plan.oversized_bytes` characters."""


_SHARES = ("cloud_share", "late", "duplicate", "future", "malformed")
_POSITIVE = ("spike_size", "late_by", "future_by", "oversized_bytes")
_NOT_NEGATIVE = ("rate", "bid_rate", "spike_interval", "first_spike_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A schedule depends on this and on the time at which it starts, and on nothing else.

    Rates are events a second; times are seconds; shares are extra events per regular event, 0 to 1.

    Raises:
        PlanError: a value is out of its range.
    """

    seed: int = 1
    customers: int = 10
    """Customers are numbered from 0."""
    organizations: tuple[str, ...] = ("A", "B", "C", "D")
    cloud_share: float = 0.2
    """The probability that a customer deploys to the cloud; the others are on_prem."""
    rate: float = 0.05
    """Steady customer events; 0 for none. By default an organization has one or two in the two minutes of the alert
    view, well below its threshold."""
    spike_size: int = 10
    spike_interval: float = 90.0
    """0 for no spikes."""
    first_spike_after: float | None = None
    """None for one interval."""
    bid_rate: float = 0.2
    """Winning bids; 0 for none."""
    late: float = 0.0
    late_by: float = 600.0
    duplicate: float = 0.0
    future: float = 0.0
    future_by: float = 3600.0
    malformed: float = 0.0
    flaws: tuple[Flaw, ...] = tuple(Flaw)
    """The flaws of malformed events."""
    oversized_bytes: int = 200_000
    """Below the megabyte that a Kafka broker accepts by default, so that it reaches the consumers."""
    limit: int | None = None
    """The schedule ends after this many events; None for never."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise PlanError(field.name, "must be a finite number")
        for name in _SHARES:
            _require(name, 0 <= getattr(self, name) <= 1, "must be between 0 and 1")
        for name in _POSITIVE:
            _require(name, getattr(self, name) > 0, "must be more than 0")
        for name in _NOT_NEGATIVE:
            _require(name, (getattr(self, name) or 0) >= 0, "must not be negative")
        _require("customers", 1 <= self.customers <= 1_000_000, "must be between 1 and 1000000")
        named = bool(self.organizations) and all(self.organizations)
        _require("organizations", named, "must name at least one organization, and none with an empty name")
        _require("flaws", bool(self.flaws), "must name at least one flaw")
        _require("limit", self.limit is None or self.limit >= 0, "must not be negative")


def _require(option: str, met: bool, message: str) -> None:
    if not met:
        raise PlanError(option, message)
