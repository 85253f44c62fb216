"""Requests whose outcome is unknown, in any ledger: their members, and the time limit of their repeats."""

from pathlib import Path

from support.clock import Clock
from support.ledger import OpenLedger, delivered, fired, settlement
from tocsin.ledger.base import Ledger, Settlement, Status
from tocsin.model import Notification


async def bind(ledger: Ledger, *members: Notification) -> None:
    await ledger.bind([[one.seq for one in members]])


async def repeats(ledger: Ledger, channel: str = "hook") -> list[list[Notification]]:
    """The requests that are repeated after the process ends here."""
    await ledger.recover(channel, 0.0, 0.0)
    found = await ledger.claim(channel, 1000)
    await ledger.recover(channel, 0.0, 0.0)
    return [list(members) for members in found.repeats]


async def ids(ledger: Ledger, channel: str = "hook") -> list[list[str]]:
    return [[one.id for one in members] for members in await repeats(ledger, channel)]


def dead(notification: Notification, reason: str = "exhausted", *, repeat: bool = True) -> Settlement:
    return settlement(notification, Status.DEAD, reason=reason, detail="", repeat=repeat)


def unknown(notification: Notification, not_before: float) -> Settlement:
    return settlement(notification, Status.PENDING, not_before=not_before, repeat=True)


async def test_request_survives_process_restart(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    """A process that is killed while it sends leaves the request, and everything else apart from it."""
    ledger = opener(tmp_path / "ledger", clock=clock)
    one, two, three = await fired(ledger, "1", "2", "3")
    await bind(ledger, one, three)
    await ledger.close()
    ledger = opener(tmp_path / "ledger", clock=clock)
    try:
        assert await ids(ledger) == [[one.id, three.id]]
        assert [head.id for head in (await ledger.claim("hook", 10)).heads] == [two.id]
    finally:
        await ledger.close()


async def test_channels_repeat_their_own_requests(ledger: Ledger) -> None:
    one, two = await fired(ledger, "1", to=("hook", "mail"))
    await ledger.bind([[one.seq], [two.seq]])
    assert (await ids(ledger), await ids(ledger, "mail")) == ([[one.id]], [[two.id]])


async def test_known_outcome_ends_request(ledger: Ledger) -> None:
    one, two, three = await fired(ledger, "1", "2", "3")
    await bind(ledger, one, two, three)
    await ledger.settle([delivered(one), dead(two, repeat=False), settlement(three, Status.PENDING)])
    await ledger.retry([two.id])
    assert await repeats(ledger) == []


async def test_parts_replace_split_request(ledger: Ledger) -> None:
    """The first part starts with the same member as the whole."""
    one, two, three, four = await fired(ledger, "1", "2", "3", "4")
    await bind(ledger, one, two, three, four)
    await ledger.bind([[one.seq, two.seq], [three.seq, four.seq]])
    assert await ids(ledger) == [[one.id, two.id], [three.id, four.id]]


async def test_request_of_unknown_outcome_waits_as_one(ledger: Ledger, clock: Clock) -> None:
    members = await fired(ledger, "1", "2")
    await bind(ledger, *members)
    await ledger.settle([unknown(one, clock.now + 10) for one in members])
    waiting = await ledger.claim("hook", 10)
    assert (waiting.heads, waiting.repeats, waiting.next_at) == ([], [], clock.now + 10)
    clock.advance(10)
    [found] = (await ledger.claim("hook", 10)).repeats
    assert [(one.id, one.attempts) for one in found] == [(one.id, 1) for one in members]


async def test_dropped_member_leaves_request_for_good(ledger: Ledger) -> None:
    """A later retry treats it as an ordinary notification."""
    one, two, three = await fired(ledger, "1", "2", "3")
    await bind(ledger, one, two, three)
    await ledger.drop([one.id])
    await ledger.retry([one.id])
    assert await ids(ledger) == [[two.id, three.id]]


async def test_dead_request_is_retried_as_same_request(ledger: Ledger) -> None:
    """The receiver may have accepted it."""
    one, two = await fired(ledger, "1", "2")
    await bind(ledger, one, two)
    await ledger.settle([dead(one), dead(two)])
    assert await repeats(ledger) == []
    await ledger.prune(1e12, 10)
    await ledger.retry([two.id, one.id])
    assert await ids(ledger) == [[one.id, two.id]]


async def test_request_waits_for_claimed_member(ledger: Ledger) -> None:
    """A retried member may have the ordering key of a notification that is being sent."""
    one, two = await fired(ledger, "1", "2")
    await bind(ledger, one, two)
    await ledger.settle([dead(one), dead(two)])
    [later] = await fired(ledger, "1", at=2000)
    [claimed] = (await ledger.claim("hook", 10)).heads
    assert claimed.id == later.id
    await ledger.retry([one.id, two.id])
    assert (await ledger.claim("hook", 10)).repeats == []
    await ledger.settle([delivered(claimed)])
    [found] = (await ledger.claim("hook", 10)).repeats
    assert [one.id for one in found] == [one.id, two.id]


async def test_retry_changes_key_after_final_error_only(ledger: Ledger) -> None:
    """A receiver may have stored a final error under the key, and may have accepted the others."""
    notifications = await fired(ledger, "1", "2", "3", "4", "5")
    reasons = ["rejected", "too_large", "not_processed", "exhausted", "expired"]
    await ledger.settle([dead(one, reason) for one, reason in zip(notifications, reasons, strict=True)])
    await ledger.retry([one.id for one in notifications])
    found = (await ledger.claim("hook", 10)).heads
    assert [one.generation for one in found] == [1, 1, 1, 0, 0]
