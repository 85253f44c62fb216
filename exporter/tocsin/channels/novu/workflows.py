"""What is wrong with a workflow according to its document in Novu. Pure.

Novu accepts a trigger of a workflow that cannot deliver: without steps, or with an e-mail step and no e-mail provider,
it answers `processed` and nothing arrives (seen on a live server). The document shows it beforehand.
"""

from collections.abc import Iterator
from typing import Any

_DELIVERS_NOTHING = frozenset({"delay", "digest", "throttle"})
"""Types of steps that only decide when the next one runs."""

_NOT_CONNECTED = "INBOX_NOT_CONNECTED"
"""No inbox was opened yet. Messages are kept until one is."""


def problems(identifier: str, document: Any) -> list[str]:
    """Each problem as a sentence. `document`: the workflow as JSON, with the names of Novu's API; None if it does not
    exist. A field that is missing or of another type is not a problem: servers differ.
    """
    if document is None:
        return [f"Novu has no workflow {identifier!r}"]
    if not isinstance(document, dict):
        return []
    name = f"the workflow {identifier!r}"
    if document.get("active") is False or document.get("status") == "INACTIVE":
        return [f"{name} is not active in Novu"]
    steps = document.get("steps")
    if not isinstance(steps, list):
        return []
    steps = [step for step in steps if isinstance(step, dict)]
    if not steps:
        return [f"{name} has no steps, so Novu would accept notifications and deliver none; add a step in Novu"]
    types = [step.get("type") for step in steps]
    if all(type_ in _DELIVERS_NOTHING for type_ in types):
        kinds = " and ".join(sorted({str(type_) for type_ in types}))
        return [f"{name} has only {kinds} steps, so Novu would deliver nothing; add a step that delivers in Novu"]
    found = [
        f"step {step.get('name') or step.get('stepId')!r} of {name}: {issue}"
        for step in steps
        for issue in _issues(step.get("issues"))
    ]
    if not found and document.get("status") == "ERROR":
        found = [f"{name} has the status ERROR in Novu; open it there to see why"]
    return found


def _issues(issues: Any) -> Iterator[str]:
    """The issues of a step: `{"integration": {"email": [{"issueType": ..., "message": ...}]}, "controls": ...}`."""
    for group in issues.values() if isinstance(issues, dict) else ():
        for listed in group.values() if isinstance(group, dict) else ():
            for issue in listed if isinstance(listed, list) else ():
                if isinstance(issue, dict) and issue.get("issueType") != _NOT_CONNECTED:
                    yield ": ".join(str(issue[key]) for key in ("issueType", "message") if issue.get(key))
