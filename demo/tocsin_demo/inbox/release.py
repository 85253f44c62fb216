"""The answers of Novu 3.15.0 where they differ from those of 2.0.0. Pure.

Validation errors are 422, an error that is stored under an idempotency key comes back as 503, and every entry of an
answer names its transaction id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from tocsin_demo.inbox.answers import Outcome, Problem

Release: TypeAlias = Literal["2.0.0", "3.15.0"]

UNAVAILABLE = Problem(status=503, message="Service Unavailable", named=False)
"""The replay of a stored error."""

_BULK = "Validation failed for ProcessBulkTriggerCommand: events: "
_EVENT = "Validation failed for ParseEventRequestMulticastCommand: "


def newer(outcome: Outcome) -> Outcome:
    """An answer of 2.0.0 as 3.15.0 gives it."""
    if not isinstance(outcome, Problem) or outcome.status == 500:
        return outcome
    if outcome.status == 400 and not isinstance(outcome.message, str):
        return _invalid(outcome.message)
    context: dict[str, Any] = {"statusCode": outcome.status}
    if outcome.named:
        context = {"error": HTTPStatus(outcome.status).phrase, **context}
    return replace(outcome, extra={**outcome.extra, "ctx": context})


def _invalid(messages: Sequence[str]) -> Problem:
    of_bulk = all(message.startswith("events ") for message in messages)
    errors = {"events" if of_bulk else "general": {"messages": list(messages), "value": "No Value Recorded"}}
    message = _BULK + ", ".join(messages) if of_bulk else "Validation Error"
    return Problem(status=422, message=message, named=False, extra={"ctx": {}, "errors": errors})


def event_error(messages: Sequence[str]) -> str:
    """The text of an event's error in a bulk, from the list of 2.0.0: `to: to should ...; payload: ...`."""
    if not all(message.split()[1:2] in (["should"], ["must"]) for message in messages):
        return "; ".join(messages)
    fields: dict[str, list[str]] = {}
    for message in messages:
        fields.setdefault(message.split()[0], []).append(message)
    return _EVENT + "; ".join(f"{name}: {', '.join(faults)}" for name, faults in fields.items())


def named(entry: Mapping[str, Any], transaction_id: object, link: str) -> dict[str, Any]:
    """An entry with its transaction id and, where it was accepted, a link into the dashboard."""
    found = {**entry, "transactionId": transaction_id} if transaction_id else dict(entry)
    return {**found, "activityFeedLink": link} if entry["status"] == "processed" else found
