"""The worker: turns accepted events into jobs and jobs into messages, and stores both.

Pure: every call takes the time. It behaves as a running Novu did, oddities included; comments name them.
"""

import functools
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from tocsin_demo.inbox.model import CHANNELS, Counters, Event, Job, Message, Notification

DELAY_S = 0.03
"""Seconds from the acceptance of an event to its first jobs. A repeat of its transaction id within them is delivered as
well."""
LOST_ABOVE = 16 * 1024 * 1024

Task: TypeAlias = Callable[[float], None]


class Worker:
    """Events in, messages out.

    Args:
        recipient_delay: seconds from the jobs of one recipient to those of the next.
        keep: how many notifications are remembered in full. Ids stay used beyond it.
    """

    def __init__(self, *, recipient_delay: float, keep: int) -> None:
        self.subscribers: dict[str, str] = {}
        """Id -> name."""
        self.notifications: dict[int, Notification] = {}
        self.counters = Counters()
        self.up = True
        self._numbers = itertools.count(1)
        self._recipient_delay = recipient_delay
        self._keep = keep
        self._topics: dict[str, tuple[str, ...]] = {}
        self._used: set[str] = set()
        self._queued: list[Event] = []
        self._tasks: list[tuple[float, int, Task]] = []
        self._by_transaction: defaultdict[str, list[Notification]] = defaultdict(list)

    def number(self) -> int:
        """The next of rising numbers, for everything in the order in which it came."""
        return next(self._numbers)

    def add_subscriber(self, subscriber_id: str, fields: Mapping[str, Any]) -> None:
        """Create a subscriber, or update the name of one. `fields`: firstName, lastName, ..."""
        parts = (fields.get("firstName"), fields.get("lastName"))
        name = " ".join(part for part in parts if isinstance(part, str) and part)
        self.subscribers[subscriber_id] = name or self.subscribers.get(subscriber_id) or subscriber_id

    def add_topic(self, key: str, members: Iterable[str]) -> None:
        """Create a topic of subscribers."""
        self._topics[key] = tuple(members)

    def notifications_of(self, transaction_id: str) -> Sequence[Notification]:
        """The notifications of a transaction id: one per subscriber and delivery."""
        return tuple(self._by_transaction.get(transaction_id, ()))

    def accept(self, event: Event, now: float) -> None:
        """Take an event that the API has accepted."""
        if self.up:
            self._pick_up(event, now)
        else:
            self._queued.append(event)

    def cancel(self, notification: Notification, now: float) -> bool:
        """Cancel the delayed step of a notification and those after it; whether there was one."""
        waiting = next((i for i, job in enumerate(notification.jobs) if job.status == "delayed"), None)
        if waiting is None:
            return False
        for job in notification.jobs[waiting:]:
            job.status = "canceled"
        notification.changed_at = now
        self.counters.cancelled += 1
        return True

    def delete(self, message: Message, notification: Notification, now: float) -> None:
        """Delete a message, softly."""
        message.deleted_at = notification.changed_at = now
        self.counters.deleted += 1

    def next_due(self) -> float | None:
        """When the next task is due, if there is one."""
        return self._tasks[0][0] if self._tasks else None

    def advance(self, now: float) -> None:
        """Do what is due by `now`."""
        while self._tasks and self._tasks[0][0] <= now:
            at, _, task = heapq.heappop(self._tasks)
            task(at)

    def stop(self, now: float) -> None:
        """From now on events are accepted and stay in the queue."""
        self.advance(now)
        self.up = False

    def start(self, now: float) -> None:
        """Work off the queue, all at once: two events with one id are both delivered."""
        self.advance(now)
        self.up = True
        queued, self._queued = self._queued, []
        for event in queued:
            self._pick_up(event, now)

    def _pick_up(self, event: Event, now: float) -> None:
        # Novu checks for jobs of the same id, whatever the workflow or the subscriber, and jobs come later: so an id
        # sent twice in quick succession is delivered twice, and a used id stays used, also after a cancel or a delete.
        if event.transaction_id in self._used:
            self.counters.repeats_dropped += 1
        elif event.size > LOST_ABOVE:
            self.counters.undeliverable += 1  # too large for the database; the API has answered 201
        else:
            self._at(now + DELAY_S, lambda at: self._make_jobs(event, at))

    def _make_jobs(self, event: Event, now: float) -> None:
        people = self._recipients(event)
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
            seq=self.number(),
            transaction_id=event.transaction_id,
            workflow=event.workflow,
            subscriber_id=subscriber_id,
            payload=event.payload,
            created_at=now,
            changed_at=now,
            copy=earlier[subscriber_id],
            jobs=[Job(type=kind) for kind in kinds],
        )
        self.counters.doubles += notification.copy > 0
        self.notifications[notification.seq] = notification
        self._by_transaction[event.transaction_id].append(notification)
        notification.jobs[0].status = "completed"
        self._run(notification, 1, now)
        while len(self.notifications) > self._keep:
            old = self.notifications.pop(next(iter(self.notifications)))
            self._by_transaction[old.transaction_id].remove(old)

    def _recipients(self, event: Event) -> list[str]:
        """The subscribers of an event, each once. Novu accepts much that names none: "", [], 5, {}."""
        found: dict[str, None] = {}
        for each in event.to if isinstance(event.to, list) else [event.to]:
            fields = each if isinstance(each, dict) else {"subscriberId": each}
            named: Sequence[Any] = [fields.get("subscriberId")]
            if fields.get("type") == "Topic":
                named = self._topics.get(str(fields.get("topicKey")), ())
            for subscriber_id in named:
                if isinstance(subscriber_id, str) and subscriber_id:
                    self.add_subscriber(subscriber_id, fields)
                    found[subscriber_id] = None
        return list(found)

    def _run(self, notification: Notification, index: int, now: float) -> None:
        """Do the jobs from `index` on, up to the first that waits."""
        for number, job in enumerate(notification.jobs[index:], start=index):
            step = notification.workflow.steps[number - 1]
            if step.seconds > 0:
                job.status, job.due = "delayed", now + step.seconds
                notification.changed_at = now
                self._at(job.due, functools.partial(self._wake, notification, number))
                return
            if step.type in CHANNELS:
                notification.messages.append(Message(channel=step.type, created_at=now))
                notification.changed_at = now
                self.counters.messages += 1
            job.status = "completed"

    def _wake(self, notification: Notification, number: int, now: float) -> None:
        job = notification.jobs[number]
        if job.status == "delayed":
            job.status = "completed"
            self._run(notification, number + 1, now)

    def _at(self, due: float, task: Task) -> None:
        heapq.heappush(self._tasks, (due, self.number(), task))
