"""The result: what is true of a key, in fields for programs and in sentences for people. Times are wall-clock
seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tocsin.explain.keys import Candidate
from tocsin.exposition import AlertStatus
from tocsin.ledger.base import Record
from tocsin.model import Columns, Row


class Verdict(StrEnum):
    """What is true of a key now."""

    FIRING = "firing"
    PENDING = "pending"
    """In the view, but not yet for as long as `for` demands."""
    KEEPING = "keeping"
    """No longer in the view, kept firing for `keep_firing_for`."""
    ABSENT = "absent"
    """It does not fire; it has fired."""
    UNSEEN = "unseen"
    """It does not fire, and no notification of it is kept."""
    EVENT = "event"
    """It is an event, which happened once."""
    SEVERAL = "several"
    """Several keys match."""
    ALERT = "alert"
    """No key was asked about."""
    UNKNOWN = "unknown"
    """The rows are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens next. `at` None: no time is known."""

    at: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A timer of the key, by the setting that it comes from."""

    name: str
    due: float


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """A condition. `result` None: there is no row to evaluate it with, or it cannot be evaluated (`error`)."""

    expression: str
    values: Mapping[str, Any]
    result: bool | None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteExplanation:
    """What a channel gets of the key."""

    channel: str
    type: str
    state: str | None
    message: str
    kinds: Sequence[str]
    when: When | None
    interval: float
    group: Mapping[str, str | None]
    order: Mapping[str, str | None]
    waiting: int
    window_ends: float | None
    says: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How an attempt, or the notification itself, ended. `answer`: the receiver's, or why there was none."""

    at: float | None
    outcome: str
    reason: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One notification from the transition to what happens next."""

    record: Record
    request: Mapping[str, Any] | None
    request_error: str
    answers: Sequence[Answer]
    says: Sequence[str]
    next: Step | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One key of an alert."""

    alert: str
    at: float
    fingerprint: str | None
    key: Mapping[str, str | None] | None
    verdict: Verdict
    summary: str
    because: Sequence[str]
    source: AlertStatus | None
    started_at: float | None
    ended_at: float | None
    timer: Timer | None
    columns: Columns
    row: Row | None
    """None: none is known."""
    routes: Sequence[RouteExplanation]
    notifications: Sequence[Life]
    next: Sequence[Step]
    unknown: Sequence[str]
    nearest: Sequence[Candidate]
