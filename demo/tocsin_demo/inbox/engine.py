"""Novu's API as a pure model: no clock, no socket. What becomes of an accepted event is the worker's task.

Every call takes the time and first does what was due by then.
"""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tocsin_demo.inbox import checks
from tocsin_demo.inbox.answers import Answer, Problem, RejectedError, bad_request, internal_error, not_found
from tocsin_demo.inbox.model import CHANNELS, Delivery, Event, Step, Workflow
from tocsin_demo.inbox.release import Release, event_error, named
from tocsin_demo.inbox.worker import Ids, Worker

RECIPIENT_DELAY_S = 0.002
KEEP = 100_000
"""How many notifications and webhook deliveries are remembered in full. Ids stay used beyond it."""


class Engine:
    """Workflows, people, events and messages.

    Args:
        recipient_delay: see `Worker`.
        auto_workflows: create a workflow with one in-app step when it is first named.
    """

    def __init__(
        self,
        *,
        recipient_delay: float = RECIPIENT_DELAY_S,
        auto_workflows: bool = False,
        release: Release = "2.0.0",
    ) -> None:
        self.ids = Ids()
        self.worker = Worker(ids=self.ids, recipient_delay=recipient_delay, keep=KEEP)
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
            id=self.ids.object_id(now),
            workflow_id=workflow_id,
            created_at=now,
            steps=tuple(steps),
            active=active,
            required=tuple(required),
        )
        self.workflows[workflow_id] = workflow
        return workflow

    def find_workflow(self, name: str) -> Workflow:
        """A workflow by its identifier or by its database id. Raises `RejectedError`."""
        for each in self.workflows.values():
            if name in {each.workflow_id, each.id}:
                return each
        raise not_found("Workflow cannot be found")

    def trigger(self, body: Any, now: float, size: int = 0) -> Answer:
        """POST /v1/events/trigger. `size`: bytes of the body. Raises `RejectedError`."""
        self.worker.advance(now)
        return Answer(status=201, body={"data": self._accept(checks.single(body), now, size)})

    def bulk(self, body: Any, now: float, *, bad_event: int | None = None) -> Answer:
        """POST /v1/events/trigger/bulk: an entry per event, in order. `bad_event`: the index of one that is to fail.
        Raises `RejectedError`.
        """
        self.worker.advance(now)
        entries: list[dict[str, Any]] = []
        for index, event in enumerate(checks.bulk(body)):
            if event is None and self._newer:
                raise RejectedError(internal_error())
            try:
                if index == bad_event:
                    raise RejectedError(Problem(status=422, message="workflow_not_found"))
                entries.append(self._accept(checks.bulk_event(event), now, 0))
            except RejectedError as rejected:
                message = rejected.problem.message
                error = [message] if isinstance(message, str) else list(message)
                entry = {"acknowledged": True, "status": "error", "error": error}
                if self._newer:
                    given = checks.fields_of(event).get("transactionId")
                    entry = named({**entry, "error": [event_error(error)]}, given, "")
                entries.append(entry)
        return Answer(status=201, body={"data": entries})

    def cancel(self, transaction_id: str, now: float) -> Answer:
        """DELETE /v1/events/trigger/{id}: whether a delayed step was cancelled. After false, a message may come."""
        self.worker.advance(now)
        cancelled = [self.worker.cancel(each, now) for each in self.worker.notifications_of(transaction_id)]
        return Answer(body={"data": any(cancelled)})

    def delete_by_transaction(self, transaction_id: str, channel: str | None, now: float) -> Answer:
        """DELETE /v1/messages/transaction/{id}: 404 until something is delivered. Raises `RejectedError`."""
        self.worker.advance(now)
        if channel is not None and channel not in CHANNELS:
            raise bad_request([f"channel must be one of the following values: {', '.join(CHANNELS)}"])
        messages = [
            (notification, message)
            for notification in self.worker.notifications_of(transaction_id)
            for message in notification.messages
            if message.deleted_at is None
        ]
        if not messages:
            raise not_found("Invalid transactionId or channel")
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
        delivery = Delivery(seq=self.ids.number(), name=name, body=body, at=now, repeat=repeat)
        self.deliveries[delivery.seq] = delivery
        if len(self.deliveries) > KEEP:
            del self.deliveries[next(iter(self.deliveries))]
        self.counters.webhooks += 1
        return delivery

    def _accept(self, fields: Mapping[str, Any], now: float, size: int) -> dict[str, Any]:
        """The entry of one event in an answer. Raises `RejectedError`."""
        entry = self._entry(fields, now, size)
        if not self._newer:
            return entry
        link = f"http://localhost:4000/activity/requests?selectedLogId={self.ids.object_id(now)}"
        return named(entry, entry.get("transactionId") or fields.get("transactionId"), link)

    def _entry(self, fields: Mapping[str, Any], now: float, size: int) -> dict[str, Any]:
        name = fields["name"]
        workflow = self.workflows.get(name)
        if workflow is None and self._auto_workflows and name:
            workflow = self.add_workflow(name, now=now)
        if workflow is None:
            raise RejectedError(Problem(status=422, message="workflow_not_found"))
        if not workflow.active:
            return {"acknowledged": True, "status": "trigger_not_active"}
        if fields.get("tenant") is not None:  # there are none
            return {"acknowledged": True, "status": "no_tenant_found"}
        payload = fields.get("payload")
        checks.required_fields(payload, workflow.required, newer=self._newer)
        transaction_id = fields.get("transactionId") or str(uuid.uuid4())
        self.counters.events += 1
        event = Event(workflow=workflow, transaction_id=transaction_id, to=fields["to"], payload=payload, size=size)
        self.worker.accept(event, now)
        return {"acknowledged": True, "status": "processed", "transactionId": transaction_id}
