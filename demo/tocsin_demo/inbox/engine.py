"""Novu's API as a pure model: no clock, no socket. What becomes of an accepted event is the worker's task.

Every call takes the time and first does what was due by then.
"""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tocsin_demo.inbox.answers import Answer, RefusedError, Release
from tocsin_demo.inbox.model import CHANNELS, Delivery, Event, Step, Workflow
from tocsin_demo.inbox.worker import Worker

RECIPIENT_DELAY_S = 0.002
KEEP = 100_000
"""How many notifications and webhook deliveries are remembered in full. Ids stay used beyond it."""

Something: TypeAlias = str | bool | int | float | list[Any] | dict[str, Any]


class Trigger(BaseModel):
    """The body of a trigger. Novu takes anything but null for recipients, and delivers to none."""

    model_config = ConfigDict(strict=True)

    name: str
    to: Something
    payload: Any = None
    overrides: dict[str, Any] | None = None
    tenant: Any = None
    transactionId: str | None = None  # noqa: N815  (Novu's name)


class SingleTrigger(Trigger):
    """The body of a single trigger."""

    payload: dict[str, Any] | None = None


class BulkTrigger(Trigger):
    """An event of a bulk, which Novu checks by other rules: a payload is required but may be a string."""

    payload: Something
    overrides: Any = None


class Bulk(BaseModel):
    """The body of a bulk; its events are checked one by one."""

    events: Annotated[list[Any], Field(min_length=1, max_length=100)]


Body = TypeVar("Body", bound=BaseModel)


class Engine:
    """Workflows, people, events and messages.

    Args:
        recipient_delay: see `Worker`.
        auto_workflows: create a workflow with one in-app step when it is first named.
        release: the Novu whose answers are given. 3.15.0 answers 422 to an invalid body, names the transaction in every
            entry, and checks a payload in other words.
    """

    def __init__(
        self,
        *,
        recipient_delay: float = RECIPIENT_DELAY_S,
        auto_workflows: bool = False,
        release: Release = "2.0.0",
    ) -> None:
        self.worker = Worker(recipient_delay=recipient_delay, keep=KEEP)
        self.counters = self.worker.counters
        self.workflows: dict[str, Workflow] = {}
        self.deliveries: dict[int, Delivery] = {}
        self._auto_workflows = auto_workflows
        self._newer = release != "2.0.0"
        self._webhook_ids: Counter[tuple[str, str]] = Counter()

    def add_workflow(
        self,
        workflow_id: str,
        *,
        now: float,
        steps: Sequence[Step] = (Step(type="in_app"),),
        active: bool = True,
        required: Sequence[str] = (),
    ) -> Workflow:
        """Create or replace a workflow."""
        workflow = Workflow(
            id=f"{self.worker.number():024x}",
            workflow_id=workflow_id,
            created_at=now,
            steps=tuple(steps),
            active=active,
            required=tuple(required),
        )
        self.workflows[workflow_id] = workflow
        return workflow

    def find_workflow(self, name: str) -> Workflow:
        """A workflow by its identifier or by its database id. Raises `RefusedError`."""
        for each in self.workflows.values():
            if name in {each.workflow_id, each.id}:
                return each
        raise RefusedError(404, "Workflow cannot be found")

    def trigger(self, body: Any, now: float, size: int = 0) -> Answer:
        """POST /v1/events/trigger. `size`: bytes of the body. Raises `RefusedError`."""
        self.worker.advance(now)
        return Answer(status=201, body={"data": self._accept(self._read(SingleTrigger, body), now, size)})

    def bulk(self, body: Any, now: float, *, bad_event: int | None = None) -> Answer:
        """POST /v1/events/trigger/bulk: an entry per event, in order. `bad_event`: the index of one that is to fail.
        Raises `RefusedError`.
        """
        self.worker.advance(now)
        entries: list[Mapping[str, Any]] = []
        for index, event in enumerate(self._read(Bulk, body).events):
            try:
                if index == bad_event:
                    raise RefusedError(422, "workflow_not_found")
                entries.append(self._accept(self._read(BulkTrigger, event), now, 0))
            except RefusedError as refused:
                message = refused.answer.body["message"]
                errors = [message] if isinstance(message, str) else message
                given = event.get("transactionId") if isinstance(event, dict) else None
                entries.append(self._entry("error", given if self._newer else None, error=errors))
        return Answer(status=201, body={"data": entries})

    def cancel(self, transaction_id: str, now: float) -> Answer:
        """DELETE /v1/events/trigger/{id}: whether a delayed step was cancelled. After false, a message may come."""
        self.worker.advance(now)
        cancelled = [self.worker.cancel(each, now) for each in self.worker.notifications_of(transaction_id)]
        return Answer(body={"data": any(cancelled)})

    def delete_by_transaction(self, transaction_id: str, channel: str | None, now: float) -> Answer:
        """DELETE /v1/messages/transaction/{id}: 404 until something is delivered. Raises `RefusedError`."""
        self.worker.advance(now)
        if channel is not None and channel not in CHANNELS:
            raise self._invalid([f"channel must be one of the following values: {', '.join(CHANNELS)}"])
        messages = [
            (notification, message)
            for notification in self.worker.notifications_of(transaction_id)
            for message in notification.messages
            if message.deleted_at is None
        ]
        if not messages:
            raise RefusedError(404, "Invalid transactionId or channel")
        for notification, message in messages:
            # For another channel than the message's the answer is 204, too, and nothing is deleted.
            if channel in {None, message.channel}:
                self.worker.delete(message, notification, now)
        return Answer(status=204)

    def webhook(self, name: str, body: Any, now: float) -> Delivery:
        """A body that came to a plain webhook."""
        self.worker.advance(now)
        identity = body.get("id") if isinstance(body, dict) else None
        repeat = 0
        if isinstance(identity, str):
            repeat = self._webhook_ids[name, identity]
            self._webhook_ids[name, identity] += 1
        delivery = Delivery(seq=self.worker.number(), name=name, body=body, at=now, repeat=repeat)
        self.deliveries[delivery.seq] = delivery
        if len(self.deliveries) > KEEP:
            del self.deliveries[next(iter(self.deliveries))]
        self.counters.webhooks += 1
        return delivery

    def _accept(self, trigger: Trigger, now: float, size: int) -> Mapping[str, Any]:
        """The entry of one event in an answer. Raises `RefusedError`."""
        workflow = self.workflows.get(trigger.name)
        if workflow is None and self._auto_workflows and trigger.name:
            workflow = self.add_workflow(trigger.name, now=now)
        if workflow is None:
            raise RefusedError(422, "workflow_not_found")
        named = trigger.transactionId if self._newer else None
        if not workflow.active:
            return self._entry("trigger_not_active", named)
        if trigger.tenant is not None:  # there are none
            return self._entry("no_tenant_found", named)
        self._check_required(trigger.payload, workflow.required)
        transaction_id = trigger.transactionId or str(uuid.uuid4())
        self.counters.events += 1
        event = Event(
            workflow=workflow, transaction_id=transaction_id, to=trigger.to, payload=trigger.payload, size=size
        )
        self.worker.accept(event, now)
        return self._entry("processed", transaction_id)

    @staticmethod
    def _entry(status: str, transaction_id: str | None, **more: Any) -> Mapping[str, Any]:
        named = {"transactionId": transaction_id} if transaction_id else {}
        return {"acknowledged": True, "status": status, **named, **more}

    def _check_required(self, payload: Any, required: Sequence[str]) -> None:
        """Raises `RefusedError` if the payload lacks a field that the workflow requires."""
        fields = payload if isinstance(payload, dict) else {}
        missing = [name for name in required if fields.get(name) is None]
        if self._newer and isinstance(payload, str | list):
            raise RefusedError(400, "Payload validation failed: root: must be object")
        if missing and self._newer:
            lacks = (f"root.{name}: must have required property '{name}'" for name in missing)
            raise RefusedError(400, f"Payload validation failed: {', '.join(lacks)}")
        if missing:
            values = ", ".join(f"{name} (Value)" for name in missing)
            raise RefusedError(400, f"payload is missing required key(s) and type(s): {values}")

    def _read(self, model: type[Body], value: Any) -> Body:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise self._invalid([f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]) from None

    def _invalid(self, messages: Sequence[str]) -> RefusedError:
        return RefusedError(422 if self._newer else 400, messages)
