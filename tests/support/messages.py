"""Messages as the dispatcher passes them to channels, made by the real envelope builder."""

from collections.abc import Mapping
from typing import Any

from tocsin.channels.base import Message
from tocsin.envelope import View, build
from tocsin.model import Column, Kind, Transition, fingerprint, notification_id
from tocsin.templates import Template

TEXT = 25
OIDS = {"int": 23, "text": TEXT, "numeric": 1700, "texts": 1009, "jsonb": 3802, "list": 16384}

VIEW = View(
    labels=(("customer", "customer"),),
    value="late_by",
    annotations={"summary": Template("Order {{ row.order_id }} of {{ labels.customer }} is late")},
)


def transition(
    kind: Kind = Kind.FIRED,
    *,
    key: str = "17",
    alert: str = "late",
    started_at: int = 1_795_242_548_000,
    at: int = 1_795_242_548_000,
    extra: Mapping[str, tuple[str, str | None]] | None = None,
) -> Transition:
    """One transition of an order that is late. `extra` adds columns: name -> (type in OIDS, text)."""
    columns = [Column(name="order_id", oid=23), Column(name="customer", oid=TEXT), Column(name="late_by", oid=701)]
    row: list[str | None] = [key, "Ann", "3"]
    for name, (type_name, text) in (extra or {}).items():
        columns.append(Column(name=name, oid=OIDS[type_name]))
        row.append(text)
    return Transition(
        alert=alert,
        fingerprint=fingerprint(alert, [key]),
        kind=kind,
        started_at=started_at,
        at=at,
        columns=tuple(columns),
        row=tuple(row),
    )


def message(kind: Kind = Kind.FIRED, *, channel: str = "hook", view: View = VIEW, **rest: Any) -> Message:
    """A message about one transition. Besides the arguments of `transition`: `previous_ids`, `age`, `attempts`."""
    beside = {name: rest.pop(name) for name in ("previous_ids", "age", "attempts") if name in rest}
    what = transition(kind, **rest)
    id_ = notification_id(what, channel)
    return Message(id=id_, alert=what.alert, kind=kind, envelope=build(what, id_, view), **beside)
