"""Explanations as JSON. `docs/explain.md` describes it."""

from typing import Any

from tocsin.alert import Alert
from tocsin.explain.alerts import identifying
from tocsin.explain.explanation import Explanation, Life, RouteExplanation, Step
from tocsin.explain.keys import shown
from tocsin.exposition import AlertStatus
from tocsin.web.views import Json, RowView, notification, source_time, wall_time

_LONGEST = 4_000
"""Characters of a text of a request that are shown."""
_MOST = 50
"""Entries of a list of a request that are shown."""


def explanation(found: Explanation, alert: Alert) -> Json:
    """Return an explanation of a key."""
    view, key = RowView(alert, found.columns), identifying(alert)
    row = {"labels": {}, "value": None, "row": None} if found.row is None else view.shown(found.row)
    return {
        "alert": found.alert,
        "time": wall_time(found.at),
        "fingerprint": found.fingerprint,
        "key": found.key,
        "verdict": found.verdict.value,
        "summary": found.summary,
        "because": [*found.because],
        "source": None if found.source is None else _source(found.source),
        "started_at": wall_time(found.started_at),
        "ended_at": wall_time(found.ended_at),
        "timer": None if found.timer is None else {"name": found.timer.name, "due": wall_time(found.timer.due)},
        **row,
        "routes": [route(one) for one in found.routes],
        "notifications": [_without_row(life(one, alert)) for one in found.notifications],
        "next": [_step(one) for one in found.next],
        "unknown": [*found.unknown],
        "nearest": [
            {
                "key": shown(one, key),
                "fingerprint": one.fingerprint,
                "phase": one.phase and one.phase.value,
            }
            for one in found.nearest
        ],
    }


def life(found: Life, alert: Alert | None) -> Json:
    """Return one notification with all that became of it."""
    return {
        **notification(found.record, alert),
        "request": None if found.request is None else shortened(dict(found.request)),
        "request_error": found.request_error,
        "answers": [
            {"at": wall_time(one.at), "outcome": one.outcome, "reason": one.reason, "answer": one.answer}
            for one in found.answers
        ],
        "says": [*found.says],
        "next": None if found.next is None else _step(found.next),
    }


def route(found: RouteExplanation) -> Json:
    """Return what a channel gets of a key."""
    when = found.when
    return {
        "channel": found.channel,
        "type": found.type,
        "state": found.state,
        "message": found.message,
        "kinds": [*found.kinds],
        "when": when
        and {"expression": when.expression, "values": {**when.values}, "result": when.result, "error": when.error},
        "interval": found.interval,
        "group": {**found.group},
        "order": {**found.order},
        "waiting": found.waiting,
        "window_ends": wall_time(found.window_ends),
        "says": [*found.says],
    }


def shortened(tree: Any) -> Any:
    """Return JSON of a readable size: long texts and lists are cut."""
    match tree:
        case str() if len(tree) > _LONGEST:
            return f"{tree[:_LONGEST]}… ({len(tree):,} characters)"
        case dict():
            return {name: shortened(item) for name, item in tree.items()}
        case list():
            more = [f"… {len(tree) - _MOST:,} more"] if len(tree) > _MOST else []
            return [*(shortened(item) for item in tree[:_MOST]), *more]
    return tree


def _source(status: AlertStatus) -> Json:
    return {
        "name": status.source,
        "state": status.state.value,
        "message": status.message or status.doubt or status.note,
        "frontier": source_time(status.frontier),
        "last_progress": wall_time(status.last_progress),
        "last_error": status.last_error,
        "last_error_at": wall_time(status.last_error_at),
        "next_attempt": wall_time(status.next_attempt),
    }


def _step(step: Step) -> Json:
    return {"at": wall_time(step.at), "text": step.text}


def _without_row(one: Json) -> Json:
    return {name: item for name, item in one.items() if name not in ("row", "labels", "value", "previous")}
