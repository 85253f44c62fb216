"""The worker: makes jobs of accepted events and messages of jobs, and is the store of both.

Pure: every call takes the time. What it imitates was seen on a running Novu, oddities included; each has a sentence
where it happens.
"""

import functools
import heapq
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from tocsin_demo.inbox.model import CHANNELS, Counters, Event, Job, Message, Notification, Step, Subscriber

LOST_ABOVE = 16 * 1024 * 1024
PERSON_FIELDS = ("firstName", "lastName", "email", "phone", "avatar", "locale", "timezone", "data")

Task: TypeAlias = Callable[[float], None]


class Ids:
    """Numbers that rise, and ids that begin with the time as those of Novu's store do."""

    def __init__(self) -> None:
        self._seq = itertools.count(1)

    def number(self) -> int:
        """The next number."""
        return next(self._seq)

    def object_id(self, now: float) -> str:
        """24 hexadecimal digits."""
        return f"{int(now):08x}{next(self._seq):016x}"


def render(template: str, payload: Any, subscriber: Subscriber) -> str:
    """A step's template with its `{{...}}` filled in; what is not there is left empty."""

    def value(match: re.Match[str]) -> str:
        path = match.group(1).split(".")
        found: Any = payload
        if path[0] == "payload":
            path = path[1:]
        elif path[0] == "subscriber":
            path, found = path[1:], {"subscriberId": subscriber.subscriber_id, **subscriber.fields}
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if found is None or isinstance(found, str):
            return found or ""
        return json.dumps(found, ensure_ascii=False)

    return re.sub(r"{{\s*([\w.]+)\s*}}", value, template)


class Worker:
    """Events in, messages out.

    `delay`: seconds from the acceptance of an event to its first jobs; a repeat of its transaction id within them is
    delivered as well. `recipient_delay`: seconds from the jobs of one recipient to those of the next. `keep`: how many
    notifications are remembered in full; ids stay used beyond it.
    """

    def __init__(self, *, ids: Ids, delay: float, recipient_delay: float, keep: int) -> None:
        self.subscribers: dict[str, Subscriber] = {}
        self.notifications: dict[int, Notification] = {}
        self.counters = Counters()
        self.up = True
        self._ids = ids
        self._delay = delay
        self._recipient_delay = recipient_delay
        self._keep = keep
        self._topics: dict[str, tuple[str, ...]] = {}
        self._used: set[str] = set()
        self._queued: list[Event] = []
        self._tasks: list[tuple[float, int, Task]] = []
        self._by_transaction: defaultdict[str, list[Notification]] = defaultdict(list)
        self._messages: dict[str, tuple[Notification, Message]] = {}
        self._digests: dict[tuple[str, str], list[Notification]] = {}
        self._now = 0.0

    def add_subscriber(self, subscriber_id: str, fields: Mapping[str, Any], now: float) -> Subscriber:
        """Make a subscriber, or bring what is known of one up to date."""
        told = {name: fields[name] for name in PERSON_FIELDS if fields.get(name) is not None}
        known = self.subscribers.get(subscriber_id)
        if known is None:
            known = Subscriber(
                id=self._ids.object_id(now), subscriber_id=subscriber_id, created_at=now, updated_at=now, fields=told
            )
        elif told:
            known = replace(known, updated_at=now, fields={**known.fields, **told})
        self.subscribers[subscriber_id] = known
        return known

    def add_topic(self, key: str, members: Iterable[str]) -> None:
        """Make a topic of subscribers."""
        self._topics[key] = tuple(members)

    def notifications_of(self, transaction_id: str) -> Sequence[Notification]:
        """What became of a transaction id: one notification per subscriber and delivery."""
        return tuple(self._by_transaction.get(transaction_id, ()))

    def find_message(self, message_id: str) -> tuple[Notification, Message] | None:
        """A message by its id, deleted or not."""
        return self._messages.get(message_id)

    def accept(self, event: Event, now: float) -> None:
        """Take an event that the API has accepted."""
        if self.up:
            self._pick_up(event, now)
        else:
            self._queued.append(event)

    def cancel(self, notification: Notification, now: float) -> bool:
        """Stop what waits of a notification; whether anything did."""
        waiting = next((i for i, job in enumerate(notification.jobs) if job.status in {"delayed", "merged"}), None)
        if waiting is None:
            return False
        led = notification.jobs[waiting].status == "delayed"
        for job in notification.jobs[waiting:]:
            job.status = "canceled"
        notification.changed_at = now
        self.counters.cancelled += 1
        if notification.jobs[waiting].type == "digest":
            self._leave_digest(notification, waiting, now, led=led)
        return True

    def delete(self, message: Message, notification: Notification, now: float) -> None:
        """Delete a message, softly."""
        message.deleted_at = notification.changed_at = now
        self.counters.deleted += 1

    def next_due(self) -> float | None:
        """When something happens by itself, if nothing else comes."""
        return self._tasks[0][0] if self._tasks else None

    def advance(self, now: float) -> None:
        """Do what is due by `now`."""
        self._now = max(self._now, now)
        while self._tasks and self._tasks[0][0] <= self._now:
            at, _, task = heapq.heappop(self._tasks)
            task(at)

    def stop(self, now: float) -> None:
        """From now on events are accepted and stay in the queue."""
        self.advance(now)
        self.up = False

    def start(self, now: float) -> None:
        """Take up the queue, all at once: two events with one id are both delivered."""
        self.advance(now)
        self.up = True
        queued, self._queued = self._queued, []
        for event in queued:
            self._pick_up(event, now)

    def _pick_up(self, event: Event, now: float) -> None:
        # The check is a look for jobs of the same id, whatever the workflow or the subscriber, and jobs come later: so
        # an id sent twice in haste is delivered twice, and an id once used stays used, also after a cancel or a delete.
        if event.transaction_id in self._used:
            self.counters.repeats_dropped += 1
        elif event.size > LOST_ABOVE:
            self.counters.undeliverable += 1  # too large for the store; the API has answered 201
        else:
            self._at(now + self._delay, lambda at: self._make_jobs(event, at))

    def _make_jobs(self, event: Event, now: float) -> None:
        people = self._recipients(event, now)
        if not people or not event.workflow.steps:  # the API has answered `processed` to both
            self.counters.undeliverable += 1
            return
        self._used.add(event.transaction_id)
        # One recipient after another. A cancel or a delete reaches only those whose jobs exist by then: the others get
        # the message.
        self._make_jobs_of(event, people[0], now)
        for number, subscriber_id in enumerate(people[1:], start=1):
            due = now + number * self._recipient_delay
            self._at(due, functools.partial(self._make_jobs_of, event, subscriber_id))

    def _make_jobs_of(self, event: Event, subscriber_id: str, now: float) -> None:
        earlier = Counter(each.subscriber_id for each in self._by_transaction[event.transaction_id])
        kinds = ["trigger", *(step.type for step in event.workflow.steps)]
        notification = Notification(
            id=self._ids.object_id(now),
            seq=self._ids.number(),
            transaction_id=event.transaction_id,
            workflow=event.workflow,
            subscriber_id=subscriber_id,
            payload=event.payload,
            created_at=now,
            changed_at=now,
            copy=earlier[subscriber_id],
            jobs=[Job(id=self._ids.object_id(now), type=kind) for kind in kinds],
        )
        self.counters.doubles += notification.copy > 0
        self.notifications[notification.seq] = notification
        self._by_transaction[event.transaction_id].append(notification)
        notification.jobs[0].status = "completed"
        self._run(notification, 1, now)
        self._forget_old()

    def _recipients(self, event: Event, now: float) -> list[str]:
        """The subscribers an event is for, each once. Novu accepts much of which it makes nobody: "", [], 5, {}."""
        if event.to is None:
            return list(self.subscribers)
        found: dict[str, None] = {}
        for each in event.to if isinstance(event.to, list) else [event.to]:
            fields = each if isinstance(each, dict) else {"subscriberId": each}
            subscriber_id = fields.get("subscriberId")
            if fields.get("type") == "Topic":
                members = self._topics.get(str(fields.get("topicKey")), ())
                found |= dict.fromkeys(self.add_subscriber(member, {}, now).subscriber_id for member in members)
            elif isinstance(subscriber_id, str) and subscriber_id:
                found[self.add_subscriber(subscriber_id, fields, now).subscriber_id] = None
        return list(found)

    def _run(self, notification: Notification, index: int, now: float) -> None:
        """Do the jobs from `index` on, up to the first that waits."""
        for number, job in enumerate(notification.jobs[index:], start=index):
            step = notification.workflow.steps[number - 1]
            waits = step.type in {"delay", "digest"} and step.seconds > 0
            if waits and step.type == "digest" and self._merged(notification, number):
                return
            if waits:
                self._wait(notification, number, now, now + step.seconds)
                return
            if step.type in CHANNELS:
                self._deliver(notification, job, step, now)
            job.status = "completed"

    def _wait(self, notification: Notification, number: int, now: float, due: float) -> None:
        job = notification.jobs[number]
        job.status, job.due = "delayed", due
        notification.changed_at = now
        self._at(due, lambda at: self._wake(notification, number, at))

    def _wake(self, notification: Notification, number: int, now: float) -> None:
        job = notification.jobs[number]
        if job.status != "delayed":
            return
        job.status = "completed"
        if job.type == "digest":
            self._digests.pop((notification.workflow.workflow_id, notification.subscriber_id), None)
        self._run(notification, number + 1, now)

    def _merged(self, notification: Notification, number: int) -> bool:
        """Whether a digest for this person is open, which then takes the notification in."""
        digest = self._digests.setdefault((notification.workflow.workflow_id, notification.subscriber_id), [])
        digest.append(notification)
        if len(digest) == 1:
            return False
        for job in notification.jobs[number:]:
            job.status = "merged"
        return True

    def _leave_digest(self, notification: Notification, number: int, now: float, *, led: bool) -> None:
        """The next one in the digest takes over from a leader that was cancelled, and is delivered in its own time."""
        digest = self._digests[notification.workflow.workflow_id, notification.subscriber_id]
        digest.remove(notification)
        if not digest:
            del self._digests[notification.workflow.workflow_id, notification.subscriber_id]
        elif led:
            heir = digest[0]
            for job in heir.jobs[number:]:
                job.status = "pending"
            self._wait(heir, number, now, max(now, heir.created_at + heir.workflow.steps[number - 1].seconds))

    def _deliver(self, notification: Notification, job: Job, step: Step, now: float) -> None:
        subscriber = self.subscribers[notification.subscriber_id]
        message = Message(
            id=self._ids.object_id(now),
            job_id=job.id,
            channel=step.type,
            subject=render(step.subject, notification.payload, subscriber),
            content=render(step.body, notification.payload, subscriber),
            created_at=now,
        )
        notification.messages.append(message)
        notification.changed_at = now
        self._messages[message.id] = (notification, message)
        self.counters.messages += 1

    def _forget_old(self) -> None:
        while len(self.notifications) > self._keep:
            old = self.notifications.pop(next(iter(self.notifications)))
            self._by_transaction[old.transaction_id].remove(old)
            if not self._by_transaction[old.transaction_id]:
                del self._by_transaction[old.transaction_id]
            for message in old.messages:
                del self._messages[message.id]

    def _at(self, due: float, task: Task) -> None:
        heapq.heappush(self._tasks, (due, self._ids.number(), task))
