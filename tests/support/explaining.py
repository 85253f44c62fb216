"""Facts about a key, as an explanation gets them: an order of Ann that is late, and a webhook."""

from collections.abc import Sequence
from typing import Any

from tocsin.alert import EventAlert, RowAlert
from tocsin.envelope import View
from tocsin.explain.facts import ChannelFacts, Facts, NotificationFacts
from tocsin.explain.keys import Asked, Found
from tocsin.exposition import AlertStatus, State
from tocsin.firing import Firing, Phase
from tocsin.ledger.base import Attempt, Line, Record, Status
from tocsin.model import Column, Columns, Kind, Row, fingerprint
from tocsin.pipeline.routing import Route
from tocsin.silences import Silence, parse
from tocsin.silences.ending import Held
from tocsin.sources.base import Subject

START = 1_795_242_548_000
NOW = START / 1000 + 120
KEY = fingerprint("late", ["17"])
COLUMNS: Columns = (Column(name="id", oid=23), Column(name="customer", oid=25))
ROW: Row = ("17", "Ann")
SILENCE = Silence(
    id="s1", matchers=parse('customer="Ann"'), starts_at=0.0, ends_at=NOW + 600, reason="a move", by="ann"
)
_COMMON: dict[str, Any] = {
    "name": "late",
    "source": "db",
    "key": ("id",),
    "labels": {"customer": "customer"},
    "static_labels": {},
    "value": None,
    "annotations": {},
    "notify": ("hook",),
}


def alert(**more: Any) -> RowAlert:
    """An alert on rows."""
    rest = {"metric": "late", "help": "", "on_duplicate": "max", "max_series": 100, "linger": 0.0, "ignore": ()}
    times = {"hold": 0.0, "keep_firing_for": 0.0, "repeat_interval": 0.0, "initial": "notify", "gauges": True}
    return RowAlert(**{**_COMMON, "subject": Subject(relation="late_orders"), **rest, **times, **more})


def event_alert() -> EventAlert:
    """An alert on events."""
    return EventAlert(**_COMMON, subject=Subject(event="late"))


def firing(phase: Phase = Phase.FIRING, *, marked_at: int = START) -> Firing:
    """The key in the firing set."""
    return Firing(fingerprint=KEY, phase=phase, started_at=START, marked_at=marked_at, row=ROW, counts=((1, ROW),))


def status(state: State = State.UP, **more: Any) -> AlertStatus:
    """The status of the alert."""
    return AlertStatus(name="late", source="db", state=state, firing=1, pending=2, last_progress=NOW - 1, **more)


def channel(when: str = "", *, kind: str = "webhook", state: str | None = "up", **more: Any) -> ChannelFacts:
    """A channel; `more`: of its route, or of itself."""
    of_route = {name: more.pop(name) for name in ("kinds", "interval", "group_by", "order_by") if name in more}
    route = Route(channel="hook", when=when, **{"kinds": frozenset(Kind), **of_route})
    return ChannelFacts(name="hook", kind=kind, state=state, **{"route": route, **more})


def line(*pending: Record, due: float | None = None) -> Line:
    """What is pending of an ordering key."""
    return Line(count=len(pending), first=pending, due=due)


def record(**more: Any) -> Record:
    """A notification, delivered unless `status` says otherwise."""
    values: dict[str, Any] = {
        "seq": 3,
        "id": "n" * 32,
        "alert": "late",
        "channel": "hook",
        "kind": "fired",
        "status": Status.DELIVERED,
        "fingerprint": KEY,
        "started_at": START,
        "at": START,
        "attempts": 0,
        "created_at": NOW - 100,
        "not_before": 0.0,
        "settled_at": NOW - 99,
        "reason": "",
        "detail": "",
        "digest": None,
        "ordering_key": KEY,
        "columns": COLUMNS,
        "row": ROW,
        "previous": None,
    }
    return Record(**{**values, **more})


def notified(
    *,
    failed: int = 0,
    attempts_made: Sequence[Attempt] = (),
    line: Sequence[Any] = (),
    silence: Any = None,
    held: Sequence[Held] = (),
    silenced_by: str | None = None,
    **of: Any,
) -> NotificationFacts:
    """A notification. `failed`: attempts that failed before. `line`: what is pending of its ordering key, as records or
    as what sets them apart."""
    one = of.pop("record", None) or record(**of, **({"silence": silenced_by} if silenced_by else {}))
    attempts = [*attempts_made, *(Attempt(at=NOW - 50, reason="timeout", detail="no answer") for _ in range(failed))]
    others = [other if isinstance(other, Record) else record(status=Status.PENDING, **other) for other in line]
    pending = Line(count=len(others), first=others) if others else None
    return NotificationFacts(record=one, attempts=attempts, request={}, line=pending, silence=silence, held=held)


def facts(**more: Any) -> Facts:
    """A key that fires and was not notified."""
    known = {"firing": firing(), "rows_known": True, "columns": COLUMNS, "frontier": START + 119_000, "running": True}
    asked = {"asked": Asked(values=("17",)), "found": Found(fingerprint=KEY, matches=1)}
    rest = {"alert": alert(), "view": View(labels=(("customer", "customer"),)), "status": status(), "now": NOW}
    channels = {"channels": [channel()], "history": 7 * 86400.0}
    return Facts(**{**known, **asked, **rest, **channels, **more})
