"""Notifications that are merged: what waits together, until when, and that a repeat is the same."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from support.clock import Clock
from support.ledger import OpenLedger, commit, delivered, settlement, transition
from tocsin.ledger.base import MOST_MERGED, Filter, Ledger, Status
from tocsin.model import Address, Notification

LANE = Address(channel="hook", lane="group", interval=30.0)


async def told(ledger: Ledger, *keys: str, address: Address = LANE) -> list[Notification]:
    """Commit a fired notification for each key; those that are to be handed on."""
    return await ledger.commit(replace(commit(), transitions=[(transition(key), [address]) for key in keys]))


async def waiting(ledger: Ledger) -> list[Notification]:
    return await ledger.pending("hook", 0, 1000)


def keys(notifications: Sequence[Notification]) -> list[str | None]:
    return [notification.transition.row[0] for notification in notifications]


async def test_the_first_goes_at_once_and_the_rest_waits_for_the_end_of_the_interval(
    ledger: Ledger, clock: Clock
) -> None:
    [first] = await told(ledger, "1")
    assert (first.digest, first.not_before) == (None, 0.0)
    began = clock.now
    clock.advance(10)
    [second] = await told(ledger, "2", "3")
    assert second.not_before == began + 30
    assert await told(ledger, "4") == []
    assert keys(await waiting(ledger)) == ["1", "2"]
    assert keys(await ledger.gather(second)) == ["2", "3", "4"]


async def test_several_at_once_are_one_alone_and_one_digest(ledger: Ledger) -> None:
    offered = await told(ledger, "1", "2", "3")
    assert keys(offered) == ["1", "2"]
    assert keys(await ledger.gather(offered[1])) == ["2", "3"]


async def test_sending_a_digest_opens_the_next_interval(ledger: Ledger, clock: Clock) -> None:
    _, second = await told(ledger, "1", "2")
    clock.advance(40)  # the channel was busy
    await ledger.gather(second)
    [third] = await told(ledger, "3")
    assert third.not_before == clock.now + 30
    clock.advance(61)
    await ledger.gather(third)
    clock.advance(31)
    [fourth] = await told(ledger, "4")
    assert (fourth.digest, fourth.not_before) == (None, 0.0)


async def test_nothing_joins_what_has_been_gathered_so_a_repeat_is_the_same(ledger: Ledger) -> None:
    _, second = await told(ledger, "1", "2", "3")
    before = await ledger.gather(second)
    assert keys(await told(ledger, "4", "5")) == ["4"]
    assert await ledger.gather(second) == before


async def test_groups_and_channels_do_not_touch_each_other(ledger: Ledger) -> None:
    elsewhere = [replace(LANE, lane="other"), replace(LANE, channel="mail"), Address(channel="hook")]
    await told(ledger, "1")
    for number, address in enumerate(elsewhere):
        [offered] = await told(ledger, f"other {number}", address=address)
        assert (offered.digest, offered.not_before) == (None, 0.0)


async def test_a_digest_survives_a_restart(opener: OpenLedger, tmp_path: Path, clock: Clock) -> None:
    ledger = opener(tmp_path / "ledger", clock=clock)
    await told(ledger, "1", "2", "3")
    await ledger.close()
    ledger = opener(tmp_path / "ledger", clock=clock)
    try:
        assert await told(ledger, "4") == []
        alone, first = await waiting(ledger)
        assert first.not_before == clock.now + 30
        assert (keys([alone]), keys(await ledger.gather(first))) == (["1"], ["2", "3", "4"])
    finally:
        await ledger.close()


async def test_when_the_first_is_dropped_the_next_one_stands_for_the_digest(ledger: Ledger) -> None:
    _, second = await told(ledger, "1", "2", "3", "4")
    await ledger.drop([second.id])
    _, third = await waiting(ledger)
    assert keys([third]) == ["3"]
    assert keys(await ledger.gather(third)) == ["3", "4"]


async def test_when_all_are_dropped_the_next_one_is_handed_on(ledger: Ledger) -> None:
    _, second = await told(ledger, "1", "2", "3")
    await ledger.drop([one.id for one in await ledger.find(Filter(status=Status.PENDING))])
    [fourth] = await told(ledger, "4")
    assert fourth.not_before == second.not_before
    assert keys(await ledger.gather(fourth)) == ["4"]


async def test_one_that_was_settled_does_not_come_again(ledger: Ledger) -> None:
    _, second = await told(ledger, "1", "2", "3")
    [_, third] = await ledger.gather(second)
    await ledger.settle([delivered(second), settlement(third, Status.PENDING, not_before=99.0)])
    assert keys(await ledger.gather(third)) == ["3"]
    assert keys(await waiting(ledger)) == ["1", "3"]


async def test_a_digest_is_sent_in_parts_when_it_is_long(ledger: Ledger) -> None:
    names = [str(number) for number in range(MOST_MERGED + 3)]
    _, first = await told(ledger, "alone", *names)
    part = await ledger.gather(first)
    assert keys(part) == names[:MOST_MERGED]
    await ledger.settle([delivered(one) for one in part])
    _, rest = await waiting(ledger)
    assert keys(await ledger.gather(rest)) == names[MOST_MERGED:]


async def test_what_is_known_already_opens_no_interval(ledger: Ledger, clock: Clock) -> None:
    await told(ledger, "1")
    clock.advance(31)
    assert await told(ledger, "1", "1") == []
    [second] = await told(ledger, "2")
    assert second.digest is None


async def test_intervals_that_are_over_are_forgotten_and_those_that_gather_are_not(
    ledger: Ledger, clock: Clock
) -> None:
    await told(ledger, "1", "2")
    clock.advance(3600)
    await ledger.prune(0.0, 10)
    assert await told(ledger, "3") == []
    _, second = await waiting(ledger)
    assert keys(await ledger.gather(second)) == ["2", "3"]


async def test_what_waits_on_purpose_is_not_old(ledger: Ledger, clock: Clock) -> None:
    first, second = await told(ledger, "1", "2")
    await ledger.settle([delivered(first)])
    clock.advance(20)
    backlog = (await ledger.backlog())["hook"]
    assert (backlog.pending, backlog.oldest) == (1, second.not_before)
    await ledger.settle([settlement(second, Status.PENDING, not_before=clock.now + 500)])
    assert (await ledger.backlog())["hook"].oldest == second.created_at


async def test_digest_is_cut_in_two_for_good(ledger: Ledger) -> None:
    """Each part is a digest of its own, known by its oldest member."""
    _, first = await told(ledger, "alone", "1", "2", "3", "4")
    members = await ledger.gather(first)
    rest = await ledger.cut(first, members[2].seq, refused=False)
    assert rest is not None
    assert keys(await ledger.gather(first)) == ["1", "2"]
    assert keys(await ledger.gather(rest)) == ["3", "4"]
    assert keys(await waiting(ledger)) == ["alone", "1", "3"]


async def test_refused_digest_gets_another_key_and_its_rest_does_not(ledger: Ledger) -> None:
    """The receiver may have stored the refusal under the id of the oldest member, which stays the id of the first
    part."""
    _, first = await told(ledger, "alone", "1", "2", "3", "4")
    members = await ledger.gather(first)
    await ledger.cut(first, members[2].seq, refused=True)
    assert [one.generation for one in await waiting(ledger)] == [0, 1, 0]


async def test_cut_takes_along_what_did_not_fit_in_a_message(ledger: Ledger) -> None:
    """A digest longer than a message stays in order: its end comes after the second part."""
    names = [str(number) for number in range(MOST_MERGED + 3)]
    _, first = await told(ledger, "alone", *names)
    members = await ledger.gather(first)
    rest = await ledger.cut(first, members[MOST_MERGED // 2].seq, refused=False)
    assert rest is not None
    assert keys(await ledger.gather(first)) == names[: MOST_MERGED // 2]
    assert keys(await ledger.gather(rest)) == names[MOST_MERGED // 2 :]


async def test_cut_after_all_of_the_rest_was_dropped(ledger: Ledger) -> None:
    """There is nothing to send after the first part."""
    _, first = await told(ledger, "alone", "1", "2")
    _, second = await ledger.gather(first)
    await ledger.drop([second.id])
    assert await ledger.cut(first, second.seq, refused=True) is None
    assert keys(await ledger.gather(first)) == ["1"]


async def test_part_does_not_take_another_part_along_when_tried_again(ledger: Ledger) -> None:
    """Dead letters of a digest that was cut do not become the digest that was too large."""
    _, first = await told(ledger, "alone", "1", "2", "3", "4")
    members = await ledger.gather(first)
    await ledger.cut(first, members[2].seq, refused=True)
    await ledger.settle([settlement(one, Status.DEAD) for one in members])
    assert await ledger.retry([one.id for one in members]) == 4
    _, one, three = await waiting(ledger)
    assert keys(await ledger.gather(one)) == ["1", "2"]
    assert keys(await ledger.gather(three)) == ["3", "4"]
