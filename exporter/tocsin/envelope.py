"""The envelope: a notification as JSON. Every channel sends it, or parts of it; `docs/envelope.md` describes it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

from tocsin.model import Columns, Row, Transition
from tocsin.templates import Template, TemplateError
from tocsin.values import jsonable, number, typed

Status: TypeAlias = Literal["fired", "updated", "resolved", "repeated", "event"]


class Envelope(TypedDict):
    """One notification; every value is ready for JSON. `ENVELOPE_SCHEMA` describes each key."""

    id: str
    alert: str
    status: Status
    fingerprint: str
    started_at: str
    at: str
    labels: dict[str, str]
    value: int | float | str | None
    row: dict[str, Any]
    previous: dict[str, Any] | None
    annotations: dict[str, str]
    merged: NotRequired[list["Envelope"]]


_TIME = {"type": "string", "format": "date-time"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}

ENVELOPE_SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Envelope",
    "description": "One notification: an alert fired, was updated or resolved, or still fires.",
    "type": "object",
    "additionalProperties": False,
    "required": sorted(Envelope.__required_keys__),
    "properties": {
        "id": {
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]+$",
            "description": "The notification's identity, the same when it is sent again: an idempotency key.",
        },
        "alert": {"type": "string", "description": "The alert's name in the configuration."},
        "status": {
            "enum": ["fired", "updated", "resolved", "repeated", "event"],
            "description": "What happened. `repeated`: the row still fires. `event`: it happened once.",
        },
        "fingerprint": {
            "type": "string",
            "description": "The identity of the alert and its key; with `started_at`, of one episode.",
        },
        "started_at": _TIME | {"description": "When the episode began, in the source's time: UTC, in milliseconds."},
        "at": _TIME | {"description": "When this happened, in the source's time: UTC, in milliseconds."},
        "labels": _TEXTS | {"description": "The labels, as on the gauge. A label whose column is NULL is omitted."},
        "value": {
            "anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}, {"type": "null"}],
            "description": "The value, as on the gauge. null: there is no value column, or it is NULL.",
        },
        "row": {"type": "object", "description": "The row by column name; for `resolved`, the last one seen."},
        "previous": {"type": ["object", "null"], "description": "The row before; for `updated` only."},
        "annotations": _TEXTS | {"description": "The alert's annotations, rendered."},
        "merged": {
            "type": "array",
            "items": {"$ref": "#"},
            "minItems": 2,
            "description": "Only if `interval` merged several: the envelopes of all, oldest first. The other keys "
            "are then those of the newest of the most urgent (fired, event, updated, repeated, resolved), except "
            "`id`, which is that of the oldest.",
        },
    },
}
"""The JSON Schema of the envelope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How rows of an alert become envelopes."""

    labels: tuple[tuple[str, str], ...] = ()
    """(label name, column)."""
    static_labels: tuple[tuple[str, str], ...] = ()
    """(label name, value)."""
    value: str | None = None
    """The value column."""
    annotations: Mapping[str, Template] = field(default_factory=dict)


def build(transition: Transition, id_: str, view: View) -> Envelope:
    """The envelope of a transition, under the notification's id.

    Never raises. The row may have other columns than the view (the definition changed while it was pending): those that
    it lacks are omitted. An annotation that fails to render becomes `<error: ...>`: a mistake in a template costs its
    own text, not the notification.
    """
    texts = _texts(transition.columns, transition.row)
    previous = transition.previous
    return {
        "id": id_,
        "alert": transition.alert,
        "status": transition.kind.value,
        "fingerprint": transition.fingerprint,
        "started_at": _moment(transition.started_at),
        "at": _moment(transition.at),
        "labels": _labels(texts, view),
        "value": _value(texts, view),
        "row": _plain(transition.columns, transition.row),
        "previous": None if previous is None else _plain(transition.columns, previous),
        "annotations": _annotations(_scope(transition, id_, view), view) if view.annotations else {},
    }


def merged(envelopes: Sequence[Envelope]) -> Envelope:
    """The envelope of several notifications in one message, oldest first; a single one is itself.

    Its keys are those of the newest among the most urgent, so that a message in which anything fired is `fired`. Its
    `id` is that of the oldest.
    """
    if len(envelopes) == 1:
        return envelopes[0]
    urgent: Envelope = max(reversed(envelopes), key=lambda envelope: _URGENCY[envelope["status"]])
    together = urgent.copy()
    together["id"], together["merged"] = envelopes[0]["id"], list(envelopes)
    return together


def labels_of(columns: Columns, row: Row, view: View) -> dict[str, str]:
    """The labels of a row, as in its envelope."""
    return _labels(_texts(columns, row), view)


_URGENCY: Mapping[Status, int] = {"resolved": 0, "repeated": 1, "updated": 2, "event": 3, "fired": 4}


def scope(envelope: Envelope) -> Mapping[str, object]:
    """The variables of a channel's template: the keys of the envelope, always with `merged`."""
    return envelope if "merged" in envelope else {**envelope, "merged": [envelope]}


def variables(transition: Transition, id_: str, view: View) -> dict[str, object]:
    """The variables of a template in Python: the keys of the envelope, with times and the columns in `row`, `previous`
    and `labels` as Python values."""
    scope = _scope(transition, id_, view)
    return {**scope, "annotations": _annotations(scope, view)}


CONDITION_VARIABLES = frozenset({"alert", "fingerprint", "started_at", "labels", "value", "row"})
"""The variables of a condition: those that do not depend on what happened to the row."""


def condition_variables(transition: Transition, row: Row, view: View) -> dict[str, object]:
    """The variables of a condition for a row, as Python values."""
    typed_row = _typed(transition.columns, row)
    return {
        "alert": transition.alert,
        "fingerprint": transition.fingerprint,
        "started_at": _time(transition.started_at),
        "labels": dict(view.static_labels)
        | {label: typed_row[column] for label, column in view.labels if column in typed_row},
        "value": _value(_texts(transition.columns, row), view),
        "row": typed_row,
    }


def _scope(transition: Transition, id_: str, view: View) -> dict[str, object]:
    previous = transition.previous
    return {
        **condition_variables(transition, transition.row, view),
        "id": id_,
        "status": transition.kind.value,
        "at": _time(transition.at),
        "previous": None if previous is None else _typed(transition.columns, previous),
    }


def _annotations(scope: Mapping[str, object], view: View) -> dict[str, str]:
    annotations = {}
    for name, template in view.annotations.items():
        try:
            annotations[name] = template.render(scope)
        except TemplateError as error:
            annotations[name] = f"<error: {error}>"
    return annotations


def _texts(columns: Columns, row: Row) -> dict[str, str | None]:
    return {column.name: text for column, text in zip(columns, row, strict=False)}


def _typed(columns: Columns, row: Row) -> dict[str, object]:
    return {column.name: typed(column, text) for column, text in zip(columns, row, strict=False)}


def _plain(columns: Columns, row: Row) -> dict[str, Any]:
    return {column.name: jsonable(typed(column, text)) for column, text in zip(columns, row, strict=False)}


def _labels(texts: Mapping[str, str | None], view: View) -> dict[str, str]:
    labels = dict(view.static_labels)
    for label, column in view.labels:
        text = texts.get(column)
        if text is not None:
            labels[label] = text
    return labels


def _value(texts: Mapping[str, str | None], view: View) -> int | float | str | None:
    text = texts.get(view.value) if view.value is not None else None
    if text is None:
        return None
    value = number(text)
    if not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    # A count reads as 3 and not 3.0, whatever the column's type.
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _time(milliseconds: int) -> object:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return str(milliseconds)  # beyond the year 9999: a constant view's time can be 2**64-1


@lru_cache(1000)
def _moment(milliseconds: int) -> str:
    """A time as text. Cached, since the notifications of one batch have the same."""
    moment = _time(milliseconds)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z" if isinstance(moment, datetime) else str(moment)
