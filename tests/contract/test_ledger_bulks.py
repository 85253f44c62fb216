"""Requests of several notifications whose outcome is not known: who is in them, in which order, until when."""

from collections.abc import Sequence
from pathlib import Path

from support.clock import Clock
from support.ledger import OpenLedger, delivered, settlement, told
from tocsin.ledger.base import Bulks, Ledger, Settlement, Status
from tocsin.model import Notification


async def bind(ledger: Ledger, *members: Notification, ended: Sequence[int] = ()) -> None:
    """Write that these go in one request."""
    made = [[one.seq for one in members]] if members else []
    await ledger.bind(Bulks(channel="hook", made=made, ended=ended))


async def bound(ledger: Ledger, channel: str = "hook") -> list[list[str]]:
    """The ids of the members of each request."""
    return [[one.id for one in members] for members in await ledger.bound(channel)]


def dead(notification: Notification, reason: str = "exhausted") -> Settlement:
    return Settlement(seq=notification.seq, status=Status.DEAD, attempts=1, reason=reason)


async def test_members_and_order_survive_a_restart(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    """The order is that of the request, not that of the commits."""
    ledger = opener(tmp_path / "ledger", clock=clock)
    one, _, three = await told(ledger, "1", "2", "3")
    await bind(ledger, three, one)
    await ledger.close()
    ledger = opener(tmp_path / "ledger", clock=clock)
    try:
        assert await bound(ledger) == [[three.id, one.id]]
        assert [member.seq for member in (await ledger.bound("hook"))[0]] == [three.seq, one.seq]
    finally:
        await ledger.close()


async def test_bulks_of_another_channel_are_not_read(ledger: Ledger) -> None:
    """Each channel repeats its own requests."""
    one, two = await told(ledger, "1", to=("hook", "mail"))
    await bind(ledger, one)
    await ledger.bind(Bulks(channel="mail", made=[[two.seq]]))
    assert await bound(ledger) == [[one.id]]
    assert await bound(ledger, "mail") == [[two.id]]


async def test_outcome_and_end_of_a_bulk_are_written_together(ledger: Ledger) -> None:
    """After it nothing is repeated."""
    members = await told(ledger, "1", "2")
    await bind(ledger, *members)
    await ledger.settle([delivered(one) for one in members], Bulks(channel="hook", ended=[members[0].seq]))
    assert await bound(ledger) == []


async def test_ended_bulk_makes_room_for_its_parts(ledger: Ledger) -> None:
    """The first part begins with the same member as the whole."""
    one, two, three, four = await told(ledger, "1", "2", "3", "4")
    await bind(ledger, one, two, three, four)
    parts = [[one.seq, two.seq], [three.seq, four.seq]]
    await ledger.bind(Bulks(channel="hook", made=parts, ended=[one.seq]))
    assert await bound(ledger) == [[one.id, two.id], [three.id, four.id]]


async def test_repeat_time_and_attempts_are_read_with_the_members(ledger: Ledger) -> None:
    """What a settlement wrote is what the next process knows."""
    members = await told(ledger, "1", "2")
    await bind(ledger, *members)
    await ledger.settle([settlement(one, Status.PENDING, not_before=77.0) for one in members])
    [found] = await ledger.bound("hook")
    assert [(one.attempts, one.not_before) for one in found] == [(1, 77.0)] * 2


async def test_dropped_member_leaves_a_bulk_for_good(ledger: Ledger) -> None:
    """Retried later, it is a notification like any other."""
    one, two, three = await told(ledger, "1", "2", "3")
    await bind(ledger, one, two, three)
    await ledger.drop([one.id])
    assert await bound(ledger) == [[two.id, three.id]]
    await ledger.retry([one.id])
    assert await bound(ledger) == [[two.id, three.id]]


async def test_bulk_that_was_given_up_comes_back_with_its_members(ledger: Ledger) -> None:
    """The receiver may have accepted it, so a retry must be the same request."""
    one, two = await told(ledger, "1", "2")
    await bind(ledger, one, two)
    await ledger.settle([dead(one), dead(two)])
    assert await bound(ledger) == []
    await ledger.prune(1e12, 10)
    await ledger.retry([two.id, one.id])
    assert await bound(ledger) == [[one.id, two.id]]


async def test_bulk_of_delivered_members_is_deleted(ledger: Ledger) -> None:
    """Nothing grows without end, also where an older version left rows behind."""
    members = await told(ledger, "1", "2")
    await bind(ledger, *members)
    await ledger.settle([delivered(one, at=1.0) for one in members])
    await ledger.prune(2.0, 10)
    again = await told(ledger, "3", "4")
    await bind(ledger, *again)
    assert await bound(ledger) == [[one.id for one in again]]


async def test_retry_counts_a_generation_after_a_final_error_only(ledger: Ledger) -> None:
    """A receiver may have stored a final error under the key; of the others it may have the message."""
    notifications = await told(ledger, "1", "2", "3", "4", "5")
    reasons = ["rejected", "too_large", "not_processed", "exhausted", "expired"]
    await ledger.settle([dead(one, reason) for one, reason in zip(notifications, reasons, strict=True)])
    await ledger.retry([one.id for one in notifications])
    found = await ledger.pending("hook", 0, 10)
    assert [one.generation for one in found] == [1, 1, 1, 0, 0]
