"""What the page shows, and the state for tests. Values stay values; only the page turns them into text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

from tocsin_demo.inbox.inbox import Inbox
from tocsin_demo.inbox.model import Delivery, Notification

RECENT = 3000
CARDS = 25
PEOPLE = 24
FIELDS = 24
TEXT = 1500

_TITLE = ("title", "subject", "headline")
_BODY = ("body", "message", "msg", "text", "description", "summary")
_SEVERITY = ("severity", "priority", "level")
_UNSHOWN = {"id", "fingerprint", "status", "at", "started_at", "startedAt"}
_UNSHOWN |= {"alert", "labels", "row", "previous", "annotations"}


def page(inbox: Inbox) -> dict[str, Any]:
    """The content of the page: newest messages first, at most `CARDS` a person and `PEOPLE` people."""
    engine = inbox.engine
    columns: dict[str, dict[str, Any]] = {}
    resolved: set[tuple[str, str]] = set()
    for item in _newest(engine.worker.notifications, engine.deliveries):
        key = f"webhook/{item.name}" if isinstance(item, Delivery) else f"person/{item.subscriber_id}"
        if key not in columns and len(columns) >= PEOPLE:
            continue
        column = columns.setdefault(key, {"key": key, **_owner(inbox, item), "cards": []})
        payload = item.body if isinstance(item, Delivery) else item.payload
        episode = _episode(payload)
        if len(column["cards"]) < CARDS:
            over = episode is not None and (key, episode) in resolved
            column["cards"].append(_card(item, payload, over=over))
        if episode is not None and isinstance(payload, dict) and payload.get("status") == "resolved":
            resolved.add((key, episode))
    first_seen = {f"person/{name}": number for number, name in enumerate(engine.worker.subscribers)}
    return {
        "now": inbox.clock(),
        "counters": asdict(engine.counters),
        "waiting": sum(card["state"] == "waiting" for column in columns.values() for card in column["cards"]),
        **orders(inbox),
        "columns": sorted(columns.values(), key=lambda each: (first_seen.get(each["key"], 1 << 30), each["key"])),
        "people": len(engine.worker.subscribers),
    }


def orders(inbox: Inbox) -> dict[str, Any]:
    """The active faults, and whether the worker runs."""
    faults = [fault.model_dump(exclude_none=True) for fault in inbox.faults.active]
    return {"faults": faults, "worker": "up" if inbox.engine.worker.up else "down"}


def state(inbox: Inbox) -> dict[str, Any]:
    """What a test may check, in the order in which it happened."""
    engine = inbox.engine
    engine.worker.advance(inbox.clock())
    return {
        "counters": asdict(engine.counters),
        "notifications": [
            {
                "transaction_id": each.transaction_id,
                "workflow": each.workflow.workflow_id,
                "subscriber": each.subscriber_id,
                "state": each.state,
                "payload": each.payload,
            }
            for each in engine.worker.notifications.values()
        ],
        "webhooks": [asdict(each) for each in engine.deliveries.values()],
        "requests": [asdict(each) | {"body": each.body.decode(errors="replace")} for each in inbox.requests],
    }


def _newest(
    notifications: dict[int, Notification], deliveries: dict[int, Delivery]
) -> Iterable[Notification | Delivery]:
    recent: list[Notification | Delivery] = [
        *islice(reversed(notifications.values()), RECENT),
        *islice(reversed(deliveries.values()), RECENT),
    ]
    return sorted(recent, key=lambda item: item.seq, reverse=True)


def _owner(inbox: Inbox, item: Notification | Delivery) -> dict[str, Any]:
    if isinstance(item, Delivery):
        return {"name": item.name, "id": f"POST /webhook/{item.name}", "kind": "webhook"}
    name = inbox.engine.worker.subscribers[item.subscriber_id]
    return {"name": name, "id": item.subscriber_id, "kind": "person"}


def _episode(payload: Any) -> str | None:
    """The identity of one firing, in an envelope of Tocsin."""
    if not isinstance(payload, dict) or not isinstance(payload.get("fingerprint"), str):
        return None
    return f"{payload['fingerprint']} {payload.get('started_at')}"


def _card(item: Notification | Delivery, payload: Any, *, over: bool) -> dict[str, Any]:
    content = _content(payload)
    status = content["status"]
    if isinstance(item, Delivery):
        card = {"state": "delivered", "at": item.at, "workflow": "", "transaction": "", "channels": [], "due": None}
        fallback, copies = item.name, item.repeat
    else:
        card = {
            "state": item.state,
            "at": item.changed_at,
            "workflow": item.workflow.workflow_id,
            "transaction": _short(item.transaction_id, 80),
            "channels": [message.channel for message in item.messages],
            "due": item.due,
        }
        fallback, copies = item.workflow.workflow_id, item.copy
    if card["state"] == "delivered" and (over or status == "resolved"):
        card["state"] = "resolved"
    return {"key": item.seq, **card, **content, "title": content["title"] or _short(fallback), "copies": copies}


def _content(payload: Any) -> dict[str, Any]:
    """Title, body and the rest of a payload, whatever its shape: fields with the usual names, else a list of fields."""
    if not isinstance(payload, dict):
        body = "" if payload is None else payload if isinstance(payload, str) else _plain(payload)
        return {"title": "", "body": _short(body), "severity": "", "status": "", "labels": [], "fields": [], "more": 0}
    if "groupKey" in payload:
        payload = _group(payload)
    notes = _object(payload, "annotations")
    used: set[str] = set()
    title = _first([payload, notes], _TITLE, used) or _first([notes], ["summary"], used) or _short(payload.get("alert"))
    body = _first([payload, notes], _BODY, used)
    severity = _first([payload, _object(payload, "labels")], _SEVERITY, used)
    fields = {name: value for name, value in {**payload, **notes}.items() if name not in _UNSHOWN | used}
    fields |= _object(payload, "row")
    previous = _object(payload, "previous")
    rows = [
        [
            _short(name, 120),
            _plain(value),
            _plain(previous[name]) if name in previous and previous[name] != value else None,
        ]
        for name, value in fields.items()
        if value is not None and value != ""
    ]
    return {
        "title": title,
        "body": body,
        "severity": severity,
        "status": _short(payload.get("status"), 40),
        "labels": [
            [_short(name, 60), _plain(value, 80)] for name, value in islice(_object(payload, "labels").items(), 8)
        ],
        "fields": rows[:FIELDS],
        "more": max(0, len(rows) - FIELDS),
    }


def _group(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A group of Alertmanager as a notification: what its alerts have in common, and their number."""
    labels, notes = _object(payload, "commonLabels"), _object(payload, "commonAnnotations")
    alerts = payload.get("alerts")
    return {
        "title": labels.get("alertname"),
        "status": payload.get("status"),
        "labels": {name: value for name, value in labels.items() if name not in {"alertname", "instance", "job"}},
        "annotations": notes,
        "alerts": len(alerts) if isinstance(alerts, list) and len(alerts) > 1 else None,
    }


def _object(payload: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


def _first(sources: Iterable[Mapping[str, Any]], names: Iterable[str], used: set[str]) -> str:
    for source in sources:
        for name in names:
            value = source.get(name)
            if name not in used and isinstance(value, str) and value.strip():
                used.add(name)
                return _short(value)
    return ""


def _short(value: Any, limit: int = TEXT) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _plain(value: Any, limit: int = 300) -> str:
    """A value as text: text as it is, the rest as JSON."""
    return _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), limit)
