"""The JSON documents of Novu: messages as they were recorded, workflows and subscribers as the Python SDK reads
them."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from tocsin_demo.inbox.answers import iso
from tocsin_demo.inbox.model import CHANNELS, Message, Notification, Step, Subscriber, Workflow

ORGANIZATION = "0" * 24
ENVIRONMENT = "1".zfill(24)
_YEAR_S = 365 * 86400
_SECONDS: Mapping[str, float] = {
    "seconds": 1,
    "minutes": 60,
    "hours": 3600,
    "days": 86400,
    "weeks": 604800,
    "months": 2592000,
}


def message(notification: Notification, sent: Message, subscriber: Subscriber) -> dict[str, Any]:
    """One entry of GET /v1/messages."""
    at = iso(sent.created_at)
    names = {name: value for name, value in subscriber.fields.items() if name in {"firstName", "lastName", "avatar"}}
    return {
        "cta": {"action": {"buttons": []}},
        "_id": sent.id,
        "_templateId": notification.workflow.id,
        "_environmentId": ENVIRONMENT,
        "_messageTemplateId": notification.workflow.id,
        "_notificationId": notification.id,
        "_organizationId": ORGANIZATION,
        "_subscriberId": subscriber.id,
        "_jobId": sent.job_id,
        "templateIdentifier": notification.workflow.workflow_id,
        "_feedId": None,
        "channel": sent.channel,
        **({"subject": sent.subject} if sent.subject else {}),
        "content": sent.content,
        "providerId": "novu",
        "deviceTokens": [],
        "seen": False,
        "read": False,
        "archived": False,
        "status": "sent",
        "transactionId": notification.transaction_id,
        "payload": notification.payload if isinstance(notification.payload, dict) else {},
        "expireAt": iso(sent.created_at + _YEAR_S),
        "tags": [],
        "deleted": False,
        "createdAt": at,
        "updatedAt": at,
        "__v": 0,
        "subscriber": {
            "_id": subscriber.id,
            **names,
            "subscriberId": subscriber.subscriber_id,
            "id": subscriber.id,
        },
        "actorSubscriber": None,
        "id": sent.id,
    }


def page(rows: Sequence[Any], number: int, limit: int) -> dict[str, Any]:
    """A page of a v1 list, which is not wrapped in `data`."""
    start = number * limit
    return {
        "page": number,
        "totalCount": len(rows),
        "hasMore": start + limit < len(rows),
        "pageSize": limit,
        "data": list(rows[start : start + limit]),
    }


def subscriber(person: Subscriber) -> dict[str, Any]:
    """A subscriber."""
    return {
        "_id": person.id,
        "_organizationId": ORGANIZATION,
        "_environmentId": ENVIRONMENT,
        "subscriberId": person.subscriber_id,
        "channels": [],
        "deleted": False,
        "createdAt": iso(person.created_at),
        "updatedAt": iso(person.updated_at),
        "__v": 0,
        "id": person.id,
        **person.fields,
    }


def workflow(each: Workflow, providers: AbstractSet[str] = frozenset(CHANNELS)) -> dict[str, Any]:
    """A workflow of the v2 API. `providers`: the channels that have one; steps of the others have an issue."""
    created = iso(each.created_at)
    return {
        "_id": each.id,
        "workflowId": each.workflow_id,
        "name": each.name,
        "slug": f"{each.workflow_id}_wf_{each.id}",
        "createdAt": created,
        "updatedAt": created,
        "origin": "novu-cloud",
        "status": "ACTIVE" if each.active else "INACTIVE",
        "active": each.active,
        "severity": "none",
        "tags": [],
        "steps": [_step(each, number, step, providers) for number, step in enumerate(each.steps)],
        "stepTypeOverviews": [step.type for step in each.steps],
        "preferences": {
            "user": None,
            "default": {
                "all": {"enabled": True, "readOnly": False},
                "channels": {channel: {"enabled": True} for channel in CHANNELS},
            },
        },
        "validatePayload": bool(each.required),
        "payloadSchema": {"type": "object", "required": list(each.required)},
    }


def _step(each: Workflow, number: int, step: Step, providers: AbstractSet[str]) -> dict[str, Any]:
    if step.type in {"delay", "digest"}:
        controls: dict[str, Any] = {"type": "regular", "amount": step.seconds, "unit": "seconds"}
    else:
        controls = {"subject": step.subject, "body": step.body}
    name = step.name or step.type
    return {
        "_id": f"{number:024x}",
        "stepId": f"{step.type}-{number}",
        "name": name,
        "slug": f"{name}_st_{number}",
        "type": step.type,
        "origin": "novu-cloud",
        "workflowId": each.workflow_id,
        "workflowDatabaseId": each.id,
        "controls": {"values": controls},
        "controlValues": controls,
        "variables": {},
        **({} if step.type in providers or step.type not in CHANNELS else {"issues": _missing_provider(step.type)}),
    }


def _missing_provider(channel: str) -> dict[str, Any]:
    message = f"Missing active {channel} integration provider"
    return {"integration": {channel: [{"issueType": "MISSING_INTEGRATION", "message": message}]}}


def steps_of(raw: Any) -> tuple[Step, ...]:
    """The steps in the body of POST /v2/workflows; a wait is `{"amount": 10, "unit": "seconds"}`."""
    return tuple(_read_step(each) for each in raw if isinstance(each, dict)) if isinstance(raw, list) else ()


def _read_step(raw: Mapping[str, Any]) -> Step:
    controls = raw.get("controlValues")
    if not isinstance(controls, dict):
        controls = {}
    amount = controls.get("amount")
    seconds = amount * _SECONDS.get(str(controls.get("unit")), 1) if isinstance(amount, int | float) else 0.0
    return Step(
        type=str(raw.get("type")),
        seconds=seconds,
        subject=str(controls.get("subject") or ""),
        body=str(controls.get("body") or ""),
        name=str(raw.get("name") or ""),
    )
