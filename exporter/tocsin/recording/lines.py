"""The lines of a recording: what a pipeline received, as JSON, and back.

    {"state": "late", "at": ..., "source", "subject", "definition", "key", "value", "columns", "frontier", "firings"}
    {"rows": "late", "at": ..., "frontier", "snapshot", "polled", "note", "updates": [[time, diff, row], ...]}
    {"events": "shop", "at": ..., "position", "refused", "columns": [[...], ...], "list": [{"name", "id", ...}, ...]}

`at` is wall-clock seconds; times of the source are milliseconds. A state comes before the first batch of an alert, and
again where its columns changed or the recording was interrupted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, Field

from tocsin.firing import Firing, Phase
from tocsin.model import Batch, Column, Columns, Event
from tocsin.pipeline.resume import definition
from tocsin.pipeline.tap import Seen, SeenEvents, SeenRows, SeenState
from tocsin.sources.base import EventBatch, Subject

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an alert on rows was before the batches that follow."""

    at: float
    """Wall-clock seconds."""
    alert: str
    source: str
    subject: Subject
    definition: str
    """See `tocsin.pipeline.resume.definition`."""
    columns: Columns
    frontier: int | None
    firings: Sequence[Firing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A batch of an alert on rows."""

    at: float
    alert: str
    batch: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """A batch of a source of events."""

    at: float
    source: str
    events: Sequence[Event]


Item: TypeAlias = State | Rows | Events


# What is read from a file, which may have been changed by hand.

_Moment = Annotated[float, Field(ge=0, le=253_402_300_799, allow_inf_nan=False)]
_Number = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
_Row: TypeAlias = tuple[str | None, ...]
_Shape: TypeAlias = list[tuple[str, _Number, _Number]]
_Firing: TypeAlias = tuple[str, str, _Number, _Number, _Row, list[tuple[_Number, _Row]]]


class _StateLine(BaseModel):
    state: str
    at: _Moment
    source: str
    subject: dict[str, str]
    definition: str
    columns: _Shape
    frontier: _Number | None
    firings: list[_Firing]


class _RowsLine(BaseModel):
    rows: str
    at: _Moment
    frontier: _Number
    snapshot: _Number | None = None
    polled: bool = False
    note: str = ""
    updates: list[tuple[_Number, _Number, _Row]]
    changes: list[tuple[_Number, _Row]] = []


class _EventLine(BaseModel):
    name: str
    id: str
    at: _Number
    columns: int
    row: _Row


class _EventsLine(BaseModel):
    events: str
    at: _Moment
    columns: list[_Shape]
    list: list[_EventLine]


def checked(line: Any, widths: dict[str, int]) -> Json:
    """Return a line if it is one. Raises LookupError, TypeError or ValueError. `widths`: how many columns each alert on
    rows has; kept up to date."""
    found: BaseModel
    if "state" in line:
        found = state = _StateLine.model_validate(line)
        widths[state.state] = len(state.columns)
        rows = [row for *_, row, counts in state.firings for row in (row, *(one for _, one in counts))]
        sizes = [(len(row), len(state.columns)) for row in rows]
    elif "rows" in line:
        found = batch = _RowsLine.model_validate(line)
        width = widths[batch.rows]
        sizes = [
            (len(row), width) for row in (*(row for _, _, row in batch.updates), *(row for _, row in batch.changes))
        ]
    else:
        found = events = _EventsLine.model_validate(line)
        sizes = [(len(one.row), len(events.columns[one.columns])) for one in events.list]
    if any(size != width for size, width in sizes):
        raise ValueError("a row has another number of values than there are columns")
    return found.model_dump(exclude_unset=True)


def line_of(seen: Seen, at: float) -> Json:
    """Write what a pipeline received at wall-clock time `at`."""
    match seen:
        case SeenState():
            return _state(seen, at)
        case SeenRows(alert=alert, batch=batch):
            return {
                "rows": alert,
                "at": at,
                "frontier": batch.frontier,
                **({} if batch.snapshot is None else {"snapshot": batch.snapshot, "polled": batch.polled}),
                **({"note": batch.note} if batch.note else {}),
                "updates": batch.updates,
            }
        case SeenEvents(source=source, batch=of_events):
            return _events(source, of_events, at)


def _state(seen: SeenState, at: float) -> Json:
    alert = seen.alert
    return {
        "state": alert.name,
        "at": at,
        "source": alert.source,
        "subject": {name: value for name, value in asdict(alert.subject).items() if value is not None},
        "definition": definition(alert),
        "key": alert.key,
        "value": alert.value,
        "columns": _columns(seen.columns),
        "frontier": seen.frontier,
        "firings": [
            (one.fingerprint, one.phase.value, one.started_at, one.marked_at, one.row, one.counts)
            for one in seen.firings
        ],
    }


def _events(source: str, batch: EventBatch, at: float) -> Json:
    shapes = list({id(event.columns): event.columns for event in batch.events}.values())
    number = {id(columns): place for place, columns in enumerate(shapes)}
    return {
        "events": source,
        "at": at,
        "position": dict(batch.position),
        "refused": len(batch.refused),
        "columns": [_columns(columns) for columns in shapes],
        "list": [
            {"name": one.name, "id": one.id, "at": one.at, "columns": number[id(one.columns)], "row": one.row}
            for one in batch.events
        ],
    }


def _columns(columns: Columns) -> list[tuple[str, int, int]]:
    return [(column.name, column.oid, column.typmod) for column in columns]


def item_of(line: Json) -> Item:
    """Read a line. Raises LookupError, TypeError or ValueError for one that is none."""
    if "state" in line:
        return State(
            at=line["at"],
            alert=line["state"],
            source=line["source"],
            subject=Subject(**line["subject"]),
            definition=line["definition"],
            columns=_columns_of(line["columns"]),
            frontier=line["frontier"],
            firings=[_firing(*values) for values in line["firings"]],
        )
    if "rows" in line:
        batch = Batch(
            updates=[(at, diff, tuple(row)) for at, diff, row in line["updates"]],
            frontier=line["frontier"],
            snapshot=line.get("snapshot"),
            polled=line.get("polled", False),
            note=line.get("note", ""),
        )
        return Rows(at=line["at"], alert=line["rows"], batch=batch)
    shapes = [_columns_of(columns) for columns in line["columns"]]
    events = [
        Event(name=one["name"], id=one["id"], at=one["at"], columns=shapes[one["columns"]], row=tuple(one["row"]))
        for one in line["list"]
    ]
    return Events(at=line["at"], source=line["events"], events=events)


def _columns_of(columns: Any) -> Columns:
    return tuple(Column(name=name, oid=oid, typmod=typmod) for name, oid, typmod in columns)


def _firing(fingerprint: str, phase: str, started_at: int, marked_at: int, row: Any, counts: Any) -> Firing:
    return Firing(
        fingerprint=fingerprint,
        phase=Phase(phase),
        started_at=started_at,
        marked_at=marked_at,
        row=tuple(row),
        counts=tuple((count, tuple(one)) for count, one in counts),
    )
