"""The statuses as JSON. Times are ISO 8601 in UTC; numbers that JSON lacks are the texts `NaN`, `Infinity` and
`-Infinity`."""

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from tocsin.values import jsonable
from tocsin.web.overview import (
    AlertStatus,
    ChannelStatus,
    Delivery,
    EpisodeRecord,
    FiringRow,
    NotificationRecord,
    TransitionRecord,
)

Answer: TypeAlias = (
    AlertStatus | ChannelStatus | Delivery | EpisodeRecord | FiringRow | NotificationRecord | TransitionRecord
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS = frozenset({"started_at", "ended_at", "at", "frontier"})
_SECONDS = frozenset({"last_progress", "oldest_pending", "last_delivery", "created_at", "not_before", "settled_at"})


def moment(seconds: float) -> str | None:
    """A wall-clock time as text; None where no calendar has it."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    except (OverflowError, ValueError):
        return None


def answer(status: Answer) -> dict[str, Any]:
    """The fields of a status by name, ready for `text`."""
    return {field.name: _field(field.name, getattr(status, field.name)) for field in fields(status)}


def text(value: object) -> str:
    """JSON of anything made of `answer`s."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=dict)


def _field(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _MILLISECONDS:
        return moment(value / 1000)
    if name in _SECONDS:
        return moment(value)
    if name == "value":
        return jsonable(value)
    return value
