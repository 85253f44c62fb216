"""The JSON of a workflow, as Novu's Python SDK reads it."""

from collections.abc import Set as AbstractSet
from typing import Any

from tocsin_demo.inbox.answers import iso
from tocsin_demo.inbox.model import CHANNELS, Step, Workflow


def workflow(each: Workflow, providers: AbstractSet[str]) -> dict[str, Any]:
    """A workflow of the v2 API. `providers`: the channels that have one; steps of other channels have an issue."""
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
