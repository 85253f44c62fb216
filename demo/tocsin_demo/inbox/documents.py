"""The JSON of a workflow, as Novu's Python SDK reads it."""

from collections.abc import Set as AbstractSet
from typing import Any

from tocsin_demo.inbox.answers import iso
from tocsin_demo.inbox.model import CHANNELS, Step, Workflow


def workflow(each: Workflow, providers: AbstractSet[str]) -> dict[str, Any]:
    """A workflow of the v2 API. `providers`: the channels that have one; steps of other channels have an issue."""
    created = iso(each.created_at)
    channels = {channel: {"enabled": True} for channel in CHANNELS}
    return {
        "_id": each.id,
        "workflowId": each.workflow_id,
        "name": each.workflow_id,
        "slug": f"{each.workflow_id}_wf_{each.id}",
        "createdAt": created,
        "updatedAt": created,
        "origin": "novu-cloud",
        "status": "ACTIVE" if each.active else "INACTIVE",
        "active": each.active,
        "severity": "none",
        "steps": [_step(each, number, step, providers) for number, step in enumerate(each.steps)],
        "preferences": {"default": {"all": {"enabled": True, "readOnly": False}, "channels": channels}},
    }


def _step(each: Workflow, number: int, step: Step, providers: AbstractSet[str]) -> dict[str, Any]:
    name = step.name or step.type
    found = {
        "_id": f"{number:024x}",
        "stepId": f"{step.type}-{number}",
        "name": name,
        "slug": f"{name}_st_{number}",
        "type": step.type,
        "origin": "novu-cloud",
        "workflowId": each.workflow_id,
        "workflowDatabaseId": each.id,
        "controls": {"values": {}},
        "variables": {},
    }
    if step.type in CHANNELS and step.type not in providers:
        message = f"Missing active {step.type} integration provider"
        found["issues"] = {"integration": {step.type: [{"issueType": "MISSING_INTEGRATION", "message": message}]}}
    return found
