"""The API of Novu as a pure model: no clock, no socket.

Every call takes the time and first does what had fallen due by then. What becomes of an accepted event is the worker's.
"""

import itertools
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tocsin_demo.inbox import checks
from tocsin_demo.inbox.answers import Answer, Problem, RejectedError, bad_request, internal_error, not_found
from tocsin_demo.inbox.model import CHANNELS, Delivery, Event, Message, Notification, Step, Workflow
from tocsin_demo.inbox.release import Release, event_error, named
from tocsin_demo.inbox.worker import Ids, Worker

WORKER_DELAY_S = 0.03
RECIPIENT_DELAY_S = 0.002
DEFAULT_STEPS = (Step(type="in_app"),)


class Engine:
    """Workflows, people, events, jobs and messages.

    `auto_workflows`: a workflow is made when it is first named, with one in-app step. `worker_delay`: seconds from the
    acceptance of an event to its first jobs; a repeat of its transaction id within them is delivered as well.
    `recipient_delay`: seconds from the jobs of one recipient to those of the next. `keep`: how many notifications are
    remembered in full; ids stay used beyond it.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        worker_delay: float = WORKER_DELAY_S,
        recipient_delay: float = RECIPIENT_DELAY_S,
        auto_workflows: bool = False,
        release: Release = "2.0.0",
        keep: int = 100_000,
    ) -> None:
        self.ids = Ids()
        self.worker = Worker(ids=self.ids, delay=worker_delay, recipient_delay=recipient_delay, keep=keep)
        self.counters = self.worker.counters
        self.workflows: dict[str, Workflow] = {}
        self.deliveries: dict[int, Delivery] = {}
        self._rng = rng
        self._auto_workflows = auto_workflows
        self._keep = keep
        self._newer = release != "2.0.0"
        self._tenants: set[str] = set()
        self._webhook_ids: Counter[tuple[str, str]] = Counter()

    def add_workflow(
        self,
        workflow_id: str,
        *,
        now: float,
        steps: Sequence[Step] = DEFAULT_STEPS,
        name: str = "",
        active: bool = True,
        required: Sequence[str] = (),
    ) -> Workflow:
        """Make a workflow, or make it anew."""
        workflow = Workflow(
            id=self.ids.object_id(now),
            name=name or workflow_id.replace("-", " "),
            workflow_id=workflow_id,
            created_at=now,
            steps=tuple(steps),
            active=active,
            required=tuple(required),
        )
        self.workflows[workflow_id] = workflow
        return workflow

    def find_workflow(self, name: str) -> Workflow | None:
        """A workflow by its identifier or by its database id."""
        return self.workflows.get(name) or next((each for each in self.workflows.values() if each.id == name), None)

    def add_tenant(self, identifier: str) -> None:
        """Make a tenant."""
        self._tenants.add(identifier)

    def trigger(self, body: Any, now: float, size: int = 0) -> Answer:
        """POST /v1/events/trigger. `size`: bytes of the body. Raises `RejectedError`."""
        self.worker.advance(now)
        fields = checks.single(body)
        return Answer(status=201, body={"data": self._accept(fields, fields["to"], now, size)})

    def broadcast(self, body: Any, now: float) -> Answer:
        """POST /v1/events/trigger/broadcast: to every subscriber. Raises `RejectedError`."""
        self.worker.advance(now)
        fields = checks.single(body, broadcast=True)
        return Answer(status=201, body={"data": self._accept(fields, None, now, 0)})

    def bulk(self, body: Any, now: float, *, bad_event: int | None = None) -> Answer:
        """POST /v1/events/trigger/bulk: an entry per event, in order. `bad_event`: one that is made to fail. Raises
        `RejectedError`.
        """
        self.worker.advance(now)
        entries: list[dict[str, Any]] = []
        for index, event in enumerate(checks.bulk(body)):
            if event is None and self._newer:
                raise RejectedError(internal_error(str(uuid.UUID(int=self._rng.getrandbits(128), version=4))))
            try:
                fields = checks.bulk_event(event)
                if index == bad_event:
                    raise RejectedError(Problem(status=422, message="workflow_not_found"))
                entries.append(self._accept(fields, fields["to"], now, 0))
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
        """DELETE /v1/events/trigger/{id}: true if something waited and now does not; false is no proof that nothing
        will come.
        """
        self.worker.advance(now)
        cancelled = [self.worker.cancel(each, now) for each in self.worker.notifications_of(transaction_id)]
        return Answer(body={"data": any(cancelled)})

    def delete_by_transaction(self, transaction_id: str, channel: str | None, now: float) -> Answer:
        """DELETE /v1/messages/transaction/{id}: 404 until something is delivered. Raises `RejectedError`."""
        self.worker.advance(now)
        _check_channel(channel)
        messages = [
            (notification, message)
            for notification in self.worker.notifications_of(transaction_id)
            for message in notification.messages
            if message.deleted_at is None
        ]
        if not messages:
            raise not_found("Invalid transactionId or channel")
        for notification, message in messages:
            # Another channel than the message's: 204 all the same, and nothing is deleted.
            if channel in {None, message.channel}:
                self.worker.delete(message, notification, now)
        return Answer(status=204)

    def delete_message(self, message_id: str, now: float) -> Answer:
        """DELETE /v1/messages/{id}. Raises `RejectedError`."""
        self.worker.advance(now)
        if not re.fullmatch(r"[0-9a-fA-F]{24}", message_id):
            raise bad_request(["messageId must be a mongodb id"])
        notification, message = self.worker.find_message(message_id.lower()) or (None, None)
        if notification is None or message is None or message.deleted_at is not None:
            raise not_found(f"Message with id {message_id} not found")
        self.worker.delete(message, notification, now)
        return Answer(body={"data": {"acknowledged": True, "status": "deleted"}})

    def messages(
        self,
        now: float,
        *,
        channel: str | None = None,
        subscriber_id: str | None = None,
        transactions: Sequence[str] = (),
    ) -> list[tuple[Notification, Message]]:
        """The messages that are not deleted, newest first. Raises `RejectedError`."""
        self.worker.advance(now)
        _check_channel(channel)
        if subscriber_id is not None and subscriber_id not in self.worker.subscribers:
            raise not_found(f"Subscriber not found for id {subscriber_id}")
        if transactions:
            found: Iterable[Notification] = itertools.chain.from_iterable(
                self.worker.notifications_of(each) for each in dict.fromkeys(transactions)
            )
        else:
            found = self.worker.notifications.values()
        rows = [
            (notification, message)
            for notification in found
            if subscriber_id in {None, notification.subscriber_id}
            for message in notification.messages
            if message.deleted_at is None and channel in {None, message.channel}
        ]
        return sorted(rows, key=lambda row: (row[1].created_at, row[1].id), reverse=True)

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
        if len(self.deliveries) > self._keep:
            del self.deliveries[next(iter(self.deliveries))]
        self.counters.webhooks += 1
        return delivery

    def _accept(self, fields: Mapping[str, Any], to: Any, now: float, size: int) -> dict[str, Any]:
        """The entry of one event in an answer. Raises `RejectedError`."""
        entry = self._judged(fields, to, now, size)
        if not self._newer:
            return entry
        link = f"http://localhost:4000/activity/requests?selectedLogId={self.ids.object_id(now)}"
        return named(entry, entry.get("transactionId") or fields.get("transactionId"), link)

    def _judged(self, fields: Mapping[str, Any], to: Any, now: float, size: int) -> dict[str, Any]:
        name = fields["name"]
        workflow = self.workflows.get(name)
        if workflow is None and self._auto_workflows and name:
            workflow = self.add_workflow(name, now=now)
        if workflow is None:
            raise RejectedError(Problem(status=422, message="workflow_not_found"))
        if not workflow.active:
            return {"acknowledged": True, "status": "trigger_not_active"}
        tenant = fields.get("tenant")
        identifier = tenant.get("identifier") if isinstance(tenant, dict) else tenant
        if tenant is not None and not (isinstance(identifier, str) and identifier in self._tenants):
            return {"acknowledged": True, "status": "no_tenant_found"}
        payload = fields.get("payload")
        checks.required_fields(payload, workflow.required, newer=self._newer)
        transaction_id = fields.get("transactionId") or str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self.counters.events += 1
        event = Event(
            workflow=workflow, transaction_id=transaction_id, to=to, payload=payload, accepted_at=now, size=size
        )
        self.worker.accept(event, now)
        return {"acknowledged": True, "status": "processed", "transactionId": transaction_id}


def _check_channel(channel: str | None) -> None:
    if channel is not None and channel not in CHANNELS:
        raise bad_request([f"channel must be one of the following values: {', '.join(CHANNELS)}"])
