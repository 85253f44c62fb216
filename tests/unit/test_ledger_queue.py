"""The queue of a channel in memory: what a commit made ready is claimed once, whatever is read meanwhile."""

import pytest

from support.ledger import transition
from tocsin.ledger.base import Claimed
from tocsin.ledger.outbox import Read
from tocsin.ledger.queue import Queue
from tocsin.model import Notification


def notification(seq: int) -> Notification:
    return Notification(seq, f"n{seq}", "hook", transition(str(seq)), f"key {seq}")


def read(*heads: Notification, last_seq: int = 0, full: bool = False, next_at: float | None = None) -> Read:
    return Read(Claimed(heads=heads, more=full, next_at=next_at), full, last_seq)


def claimed(queue: Queue, now: float = 0.0) -> list[int] | None:
    found = queue.claim(100, now)
    return None if found is None else [one.seq for one in found.heads]


def test_commit_is_claimed_once_without_a_read() -> None:
    queue = Queue()
    assert claimed(queue) is None
    queue.was_read(read(), queue.changes)
    queue.committed(notification(1))
    assert [claimed(queue), claimed(queue)] == [[1], []]


@pytest.mark.parametrize("answered_first", [True, False])
def test_commit_that_a_read_returned_is_claimed_once(answered_first: bool) -> None:
    """The read ends before the answer of the commit, or after it."""
    queue, one = Queue(), notification(1)
    queue.was_read(read(), queue.changes)
    if answered_first:
        queue.committed(one)
    queue.was_read(read(one, last_seq=1), queue.changes)
    if not answered_first:
        queue.committed(one)
    assert claimed(queue) == []


@pytest.mark.parametrize("read_before", [True, False])
def test_commit_after_a_read_began_is_not_lost(read_before: bool) -> None:
    queue = Queue()
    if read_before:
        queue.was_read(read(), queue.changes)
    changes = queue.changes
    queue.committed(notification(2))
    queue.was_read(read(notification(1), last_seq=1), changes)
    assert claimed(queue) == [2]


def test_change_during_a_read_causes_another() -> None:
    queue = Queue()
    changes = queue.changes
    queue.changed()
    queue.was_read(read(), changes)
    assert claimed(queue) is None


def test_next_of_key_that_a_read_skipped_is_not_lost() -> None:
    """The read began while the one before was claimed, and saw the file after its end."""
    queue, one = Queue(), notification(1)
    queue.was_read(read(one, last_seq=1), queue.changes)
    changes = queue.changes
    queue.end(1, one.ordering_key)
    queue.was_read(read(last_seq=2), changes)
    queue.committed(notification(2)._replace(ordering_key=one.ordering_key))
    assert claimed(queue) is None


def test_next_of_a_dropped_one_waits_until_it_is_sent() -> None:
    """An operator drops a notification that is being sent: then the next one of its key is committed as ready."""
    queue, one = Queue(), notification(1)
    queue.was_read(read(one, last_seq=1), queue.changes)
    queue.committed(notification(2)._replace(ordering_key=one.ordering_key))
    assert claimed(queue) is None


@pytest.mark.parametrize(("found", "now"), [(read(full=True), 0.0), (read(next_at=5.0), 5.0)])
def test_unread_and_due_ones_are_read(found: Read, now: float) -> None:
    queue = Queue()
    queue.was_read(found, queue.changes)
    assert claimed(queue, now) is None


def test_timed_commit_and_long_queue_are_read() -> None:
    """Memory holds 10,000 at most."""
    for many in ([notification(1)._replace(not_before=9.0)], [notification(seq) for seq in range(1, 10_002)]):
        queue = Queue()
        queue.was_read(read(), queue.changes)
        for one in many:
            queue.committed(one)
        assert claimed(queue) is None
        assert not queue.ready
