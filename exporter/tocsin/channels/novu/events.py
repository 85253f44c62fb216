"""From a message to a trigger event of Novu, or to the reason why it cannot be sent. Pure.

Novu answers `processed` to much that it cannot deliver: no recipients, an empty or unknown id, a payload beyond its
limit (seen on a live server). So recipients and size are checked here, before anything is sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from tocsin.channels.base import Message, Rejected
from tocsin.channels.http import json_bytes
from tocsin.channels.novu.settings import MAX_RECIPIENTS, FromColumn, Options
from tocsin.envelope import scope
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.templates import Structure, Template, TemplateError

Event: TypeAlias = dict[str, Any]
"""A trigger, in the spelling of the SDK's TriggerEventRequestDto."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The event that is triggered for a message. `size`: bytes of its payload."""

    message: Message
    event: Event
    size: int

    @property
    def single_recipient(self) -> bool:
        """Whether it is for one subscriber: Novu creates jobs for each recipient, and a topic may have many."""
        to = self.event["to"]
        return len(to) == 1 and isinstance(to[0], str)


class Route:
    """What one alert sends to Novu, with its templates compiled."""

    def __init__(self, alert: str, options: Options, max_payload: int) -> None:
        self.options = options
        self._max_payload = max_payload
        self._topics = [{"type": "Topic", "topic_key": key} for key in options.topics]
        self._columns = options.payload if isinstance(options.payload, list) else None
        payload = options.payload if isinstance(options.payload, dict) else None
        self._payload = None if payload is None else Structure(payload, place=f"{alert}: payload")
        self._overrides = Structure(options.overrides, place=f"{alert}: overrides") if options.overrides else None
        self._actor = _template(options.actor, f"{alert}: actor")
        self._tenant = _template(options.tenant, f"{alert}: tenant")

    def draft(self, message: Message) -> Draft | Rejected:
        """The event to trigger for a message, or why it cannot be triggered."""
        options = self.options
        resolved = message.kind is Kind.RESOLVED
        workflow = options.resolved_workflow if resolved else options.workflow
        if workflow is None:
            return Rejected(Reason.UNROUTED, "no workflow is configured")
        try:
            recipients = list(dict.fromkeys(self._recipients(message.envelope["row"])))
            if not recipients and not self._topics:
                return Rejected(Reason.NO_RECIPIENTS, self._no_recipients())
            if len(recipients) + len(self._topics) > MAX_RECIPIENTS:
                detail = f"{len(recipients)} recipients, and Novu takes {MAX_RECIPIENTS} in one trigger; use a topic"
                return Rejected(Reason.TOO_LARGE, detail, unsent=True)
            event = self._event(message, workflow, [*recipients, *self._topics])
        except TemplateError as error:
            return Rejected(Reason.TEMPLATE, str(error))
        except ValueError as error:
            return Rejected(Reason.NO_RECIPIENTS, str(error))
        size = len(json_bytes(event["payload"]))
        if size > self._max_payload:
            detail = f"the payload has {size} bytes, max_payload is {self._max_payload}"
            return Rejected(Reason.TOO_LARGE, detail, unsent=True)
        return Draft(message, event, size)

    def _event(self, message: Message, workflow: str, to: list[Any]) -> Event:
        envelope = scope(message.envelope)
        event: Event = {
            "workflow_id": workflow,
            "to": to,
            "payload": self._payload_of(message),
            "transaction_id": message.id,
        }
        if self._actor is not None and (actor := self._actor.render(envelope)):
            event["actor"] = actor
        if self._tenant is not None and (tenant := self._tenant.render(envelope)):
            event["tenant"] = tenant
        if self._overrides is not None:
            event["overrides"] = self._overrides.render(envelope)
        return event

    def _payload_of(self, message: Message) -> dict[str, Any]:
        if self._payload is not None:
            payload: dict[str, Any] = self._payload.render(scope(message.envelope))
            return payload
        if self._columns is not None:
            row = message.envelope["row"]
            return {name: row[name] for name in self._columns if name in row}
        return dict(message.envelope)

    def _recipients(self, row: dict[str, Any]) -> Iterator[str]:
        for recipient in self.options.recipients:
            if not isinstance(recipient, FromColumn):
                yield recipient
            elif recipient.column in row:
                yield from _ids(recipient.column, row[recipient.column])
            else:
                raise ValueError(f"recipients: the row has no column {recipient.column!r}")

    def _no_recipients(self) -> str:
        columns = [recipient.column for recipient in self.options.recipients if isinstance(recipient, FromColumn)]
        return f"recipients: the row has none in {', '.join(columns) or 'any column'}"


def shown(event: Event) -> dict[str, Any]:
    """An event for people, with Novu's names."""
    to = [one if isinstance(one, str) else {"type": "Topic", "topicKey": one["topic_key"]} for one in event["to"]]
    rest: dict[str, Any] = {name: event[name] for name in ("actor", "tenant", "overrides") if name in event}
    names = {"workflow": event["workflow_id"], "transactionId": event["transaction_id"]}
    return {**names, "to": to, **rest, "payload": event["payload"]}


def _template(source: str | None, place: str) -> Template | None:
    return None if source is None else Template(source, place=place)


def _ids(column: str, value: Any) -> Iterator[str]:
    """The subscriber ids in a column's JSON value. Raises ValueError for anything else."""
    if value is None:
        return
    for item in value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]:
        if isinstance(item, int) and not isinstance(item, bool):
            yield str(item)  # Novu accepts a bare number and delivers nothing
        elif isinstance(item, str):
            if stripped := item.strip():
                yield stripped
        elif item is not None:
            raise ValueError(f"recipients: column {column!r} holds {type(item).__name__}, not subscriber ids")
