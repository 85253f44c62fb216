"""Merged notifications in any ledger: grouping, windows, and equal content of a repeat."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from support.clock import Clock
from support.ledger import OpenLedger, commit, delivered, sendable, settlement, transition
from tocsin.ledger.base import MOST_MERGED, Filter, Ledger, Status
from tocsin.model import Address, Notification

GROUP = Address(channel="hook", ordering_key="group", interval=30.0)


async def fired(ledger: Ledger, *keys: str, address: Address = GROUP) -> list[Notification]:
    return await ledger.commit(replace(commit(), transitions=[(transition(key), [address]) for key in keys]))


async def alone(ledger: Ledger) -> None:
    """Deliver the first of the group, which opens a window."""
    [first] = await fired(ledger, "alone")
    await ledger.settle([delivered(first)])


def keys(notifications: Sequence[Notification]) -> list[str | None]:
    return [notification.transition.row[0] for notification in notifications]


async def test_first_is_sent_at_once_and_rest_together(ledger: Ledger, clock: Clock) -> None:
    [first] = await fired(ledger, "1")
    began = clock.now
    clock.advance(10)
    [second] = await fired(ledger, "2", "3")
    assert (first.digest, first.not_before, second.not_before) == (None, 0.0, began + 30)
    assert await fired(ledger, "4") == []
    assert keys(await sendable(ledger)) == ["1"]
    await ledger.settle([delivered(first)])
    assert await sendable(ledger) == []
    clock.advance(20)
    assert keys(await sendable(ledger)) == ["2"]
    assert keys(await ledger.digest(second)) == ["2", "3", "4"]


async def test_sending_a_digest_opens_next_window(ledger: Ledger, clock: Clock) -> None:
    _, second = await fired(ledger, "1", "2")
    clock.advance(40)  # the channel was busy
    before = await ledger.digest(second)
    [third] = await fired(ledger, "3", "4")
    assert third.not_before == clock.now + 30
    assert await ledger.digest(second) == before
    clock.advance(61)
    await ledger.digest(third)
    clock.advance(31)
    [fourth] = await fired(ledger, "5")
    assert (fourth.digest, fourth.not_before) == (None, 0.0)


async def test_keys_and_channels_have_windows_of_their_own(ledger: Ledger) -> None:
    elsewhere = [replace(GROUP, ordering_key="other"), replace(GROUP, channel="mail"), Address(channel="hook")]
    await fired(ledger, "1")
    for number, address in enumerate(elsewhere):
        [offered] = await fired(ledger, f"other {number}", address=address)
        assert (offered.digest, offered.not_before) == (None, 0.0)


async def test_digest_survives_ledger_restart(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    ledger = opener(tmp_path / "ledger", clock=clock)
    _, second = await fired(ledger, "1", "2", "3")
    await ledger.close()
    ledger = opener(tmp_path / "ledger", clock=clock)
    try:
        assert await fired(ledger, "4") == []
        assert keys(await ledger.digest(second)) == ["2", "3", "4"]
    finally:
        await ledger.close()


async def test_next_heads_digest_when_first_is_dropped(ledger: Ledger, clock: Clock) -> None:
    await alone(ledger)
    [second] = await fired(ledger, "2", "3", "4")
    await ledger.drop([second.id])
    clock.advance(31)
    [third] = await sendable(ledger)
    assert keys(await ledger.digest(third)) == ["3", "4"]


async def test_dropped_digest_begins_again_in_same_window(ledger: Ledger) -> None:
    _, second = await fired(ledger, "1", "2", "3")
    await ledger.drop([one.id for one in await ledger.find(Filter(status=Status.PENDING))])
    [fourth] = await fired(ledger, "4")
    assert fourth.not_before == second.not_before
    assert keys(await ledger.digest(fourth)) == ["4"]


async def test_settled_member_leaves_the_digest(ledger: Ledger, clock: Clock) -> None:
    await alone(ledger)
    [second] = await fired(ledger, "2", "3")
    [_, third] = await ledger.digest(second)
    await ledger.settle([delivered(second), settlement(third, Status.PENDING, not_before=99.0)])
    assert keys(await ledger.digest(third)) == ["3"]
    assert keys(await sendable(ledger)) == ["3"]


async def test_long_digest_is_sent_in_parts(ledger: Ledger, clock: Clock) -> None:
    await alone(ledger)
    names = [str(number) for number in range(MOST_MERGED + 3)]
    [first] = await fired(ledger, *names)
    part = await ledger.digest(first)
    assert keys(part) == names[:MOST_MERGED]
    await ledger.settle([delivered(one) for one in part])
    clock.advance(31)
    [rest] = await sendable(ledger)
    assert keys(await ledger.digest(rest)) == names[MOST_MERGED:]


async def test_known_notification_opens_no_window(ledger: Ledger, clock: Clock) -> None:
    await fired(ledger, "1")
    clock.advance(31)
    assert await fired(ledger, "1", "1") == []
    [second] = await fired(ledger, "2")
    assert second.digest is None


async def test_maintenance_keeps_windows_with_a_digest(ledger: Ledger, clock: Clock) -> None:
    _, second = await fired(ledger, "1", "2")
    clock.advance(3600)
    await ledger.prune(0.0, 10)
    assert await fired(ledger, "3") == []
    assert keys(await ledger.digest(second)) == ["2", "3"]


async def test_waiting_for_a_window_does_not_make_old(ledger: Ledger, clock: Clock) -> None:
    first, second = await fired(ledger, "1", "2")
    await ledger.settle([delivered(first)])
    clock.advance(20)
    backlog = (await ledger.backlog())["hook"]
    assert (backlog.pending, backlog.oldest) == (1, second.not_before)
    await ledger.settle([settlement(second, Status.PENDING, not_before=clock.now + 500)])
    assert (await ledger.backlog())["hook"].oldest == second.created_at


# Splitting.


@pytest.mark.parametrize("refused", [False, True])
async def test_split_digest_is_sent_in_two_parts(ledger: Ledger, clock: Clock, refused: bool) -> None:
    """Only the first part has an id that the receiver may have stored a refusal under."""
    await alone(ledger)
    [first] = await fired(ledger, "1", "2", "3", "4")
    members = await ledger.digest(first)
    await ledger.split_digest(first, members[2].seq, refused=refused)
    clock.advance(31)
    [head] = await sendable(ledger)
    part = await ledger.digest(head)
    assert (head.id, head.generation, keys(part)) == (first.id, int(refused), ["1", "2"])
    await ledger.settle([delivered(one) for one in part])
    [rest] = await sendable(ledger)
    assert (rest.generation, keys(await ledger.digest(rest))) == (0, ["3", "4"])


async def test_split_includes_overflow_of_digest(ledger: Ledger, clock: Clock) -> None:
    """The end of a digest that is longer than a message comes after the second part."""
    await alone(ledger)
    names = [str(number) for number in range(MOST_MERGED + 3)]
    [first] = await fired(ledger, *names)
    members = await ledger.digest(first)
    await ledger.split_digest(first, members[MOST_MERGED // 2].seq, refused=False)
    part = await ledger.digest(first)
    assert keys(part) == names[: MOST_MERGED // 2]
    await ledger.settle([delivered(one) for one in part])
    clock.advance(31)
    [rest] = await sendable(ledger)
    assert keys(await ledger.digest(rest)) == names[MOST_MERGED // 2 :]


async def test_retry_of_part_excludes_other_parts(ledger: Ledger) -> None:
    """Dead letters of a digest that was split do not become the digest that was too large."""
    await alone(ledger)
    [first] = await fired(ledger, "1", "2", "3", "4")
    members = await ledger.digest(first)
    await ledger.split_digest(first, members[2].seq, refused=True)
    await ledger.settle([settlement(one, Status.DEAD) for one in members])
    assert await ledger.retry([one.id for one in members]) == 4
    [head] = await sendable(ledger)
    part = await ledger.digest(head)
    assert keys(part) == ["1", "2"]
    await ledger.settle([delivered(one) for one in part])
    [rest] = await sendable(ledger)
    assert keys(await ledger.digest(rest)) == ["3", "4"]
