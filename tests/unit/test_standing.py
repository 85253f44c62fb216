"""What a level output has to tell, and to whom."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.channels.base import Standing
from tocsin.dispatch.standing import Picture, Told

RESEND, EXPIRY, RETENTION = 60.0, 240.0, 900.0
DAY = 86400.0


def standing(identity: str, *, content: str = "", started_at: float = 0.0) -> Standing:
    return Standing(identity=identity, content=content, started_at=started_at)


def picture(limit: int = 1000) -> Picture:
    return Picture(retention=RETENTION, limit=limit)


class Receiver:
    """An Alertmanager as far as it matters here: until when each alert fires."""

    def __init__(self) -> None:
        self.told = Told(resend=RESEND)
        self.until: dict[str, float] = {}

    def push(self, picture: Picture, now: float) -> list[Standing]:
        due = self.told.due(picture, now)
        for one in due:
            self.until[one.identity] = now + EXPIRY if one.ended_at is None else one.ended_at
            self.told.tell(one, now)
        return due

    def firing(self, now: float) -> set[str]:
        return {identity for identity, until in self.until.items() if until > now}


def look(picture: Picture, now: float, seen: Mapping[str, set[str] | None], *, wall: float | None = None) -> None:
    """`wall`: where it is not what the monotonic clock is."""
    picture.look(
        {
            alert: None if identities is None else [standing(identity) for identity in sorted(identities)]
            for alert, identities in seen.items()
        },
        now,
        now if wall is None else wall,
    )


SEEN = st.dictionaries(st.sampled_from("AB"), st.none() | st.sets(st.sampled_from("vwxyz")), max_size=2)
STEPS = st.lists(st.tuples(SEEN, st.integers(1, 400), st.booleans()), max_size=25)


@settings(max_examples=500)
@given(STEPS)
def test_a_receiver_that_is_told_knows_what_fires_and_what_has_ended(
    steps: list[tuple[dict[str, set[str] | None], int, bool]],
) -> None:
    shown, receiver, now = picture(), Receiver(), 0.0
    claims: dict[str, set[str]] = {}
    for seen, passes, reachable in steps:
        now += passes
        look(shown, now, seen)
        claims = {
            alert: claims.get(alert, set()) if identities is None else identities for alert, identities in seen.items()
        }
        fires = {identity for alert in claims if seen[alert] is not None for identity in claims[alert]}
        hidden = {identity for alert in claims if seen[alert] is None for identity in claims[alert]} - fires
        if not reachable:
            continue
        due = receiver.push(shown, now)
        assert fires <= receiver.firing(now)
        assert receiver.firing(now) <= fires | hidden
        assert not {one.identity for one in due} & hidden
        assert receiver.told.waiting(shown) == 0


@given(st.lists(st.floats(0.1, RESEND), max_size=40), st.lists(st.booleans(), min_size=40))
def test_what_goes_on_firing_never_expires_while_one_of_three_requests_gets_through(
    steps: list[float], fails: list[bool]
) -> None:
    shown, receiver, now, failed = picture(), Receiver(), 0.0, 0
    look(shown, now, {"A": {"x"}})
    receiver.push(shown, now)
    for passes, fail in zip(steps, fails, strict=False):
        now += passes
        assert receiver.firing(now) == {"x"}
        look(shown, now, {"A": {"x"}})
        if fail and failed < 2:
            failed += 1
            continue
        failed = 0
        receiver.push(shown, now)


def test_what_has_ended_is_told_again_for_a_quarter_of_an_hour_and_then_forgotten() -> None:
    shown, receiver = picture(), Receiver()
    look(shown, 0.0, {"A": {"x"}})
    receiver.push(shown, 0.0)
    told = []
    for now in range(10, 1200, 10):
        look(shown, now, {"A": set()})
        told += [now for one in receiver.push(shown, now) if one.ended_at == 10.0]
    assert told == list(range(10, 911, 60))
    assert (list(shown), receiver.told.next_due(shown)) == ([], None)


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_wall_clock_that_is_set_neither_forgets_what_has_ended_nor_keeps_it(jump: float) -> None:
    shown, receiver = picture(), Receiver()
    look(shown, 0.0, {"A": {"x"}}, wall=DAY)
    receiver.push(shown, 0.0)
    look(shown, 10.0, {"A": set()}, wall=DAY + 10)
    look(shown, 800.0, {"A": set()}, wall=DAY + 800 + jump)
    assert [one.ended_at for one in receiver.push(shown, 800.0)] == [DAY + 10]
    look(shown, 911.0, {"A": set()}, wall=DAY + 911 + jump)
    assert list(shown) == []


def test_nothing_is_told_twice_before_its_time_unless_it_changes() -> None:
    shown, receiver = picture(), Receiver()
    shown.look({"A": [standing("x", content="1")]}, 0.0, 0.0)
    assert receiver.push(shown, 0.0) == [standing("x", content="1")]
    assert receiver.push(shown, 59.0) == []
    shown.look({"A": [standing("x", content="2")]}, 59.5, 59.5)
    assert receiver.push(shown, 59.5) == [standing("x", content="2")]


def test_what_is_due_again_takes_along_what_soon_would_be() -> None:
    shown, receiver = picture(), Receiver()
    look(shown, 0.0, {"A": {"x"}})
    receiver.push(shown, 0.0)
    look(shown, 20.0, {"A": {"x", "y"}})
    assert [one.identity for one in receiver.push(shown, 20.0)] == ["y"]
    look(shown, 50.0, {"A": {"x", "y", "z"}})
    assert [one.identity for one in receiver.push(shown, 50.0)] == ["z"]
    assert receiver.told.next_due(shown) == 60.0
    assert [one.identity for one in receiver.push(shown, 60.0)] == ["x", "y"]


def test_an_alert_of_which_nothing_is_known_neither_ends_nor_is_told_again() -> None:
    shown, receiver = picture(), Receiver()
    look(shown, 0.0, {"A": {"x"}})
    receiver.push(shown, 0.0)
    look(shown, 100.0, {"A": None})
    assert receiver.push(shown, 100.0) == []
    look(shown, 150.0, {"A": {"x"}})
    assert [(one.identity, one.ended_at) for one in receiver.push(shown, 150.0)] == [("x", None)]
    look(shown, 160.0, {"A": None})
    look(shown, 170.0, {"A": set()})
    assert [(one.identity, one.ended_at) for one in receiver.push(shown, 170.0)] == [("x", 170.0)]


def test_an_alert_that_was_out_of_sight_for_a_moment_is_not_told_all_over() -> None:
    shown, receiver = picture(), Receiver()
    look(shown, 0.0, {"A": {"x"}})
    receiver.push(shown, 0.0)
    look(shown, 1.0, {"A": None})
    assert receiver.push(shown, 1.0) == []
    assert receiver.told.next_due(shown) is None
    look(shown, 2.0, {"A": {"x"}})
    assert receiver.push(shown, 2.0) == []
    assert receiver.told.next_due(shown) == 60.0


def test_two_firings_that_are_one_alert_there_end_with_the_last() -> None:
    shown = picture()
    shown.look({"A": [standing("x", content="late", started_at=5.0), standing("x", content="early")]}, 9.0, 9.0)
    assert list(shown) == [standing("x", content="early")]
    shown.look({"A": [standing("x", content="late", started_at=5.0)]}, 10.0, 10.0)
    assert list(shown) == [standing("x", content="late", started_at=5.0)]
    look(shown, 11.0, {"A": set(), "B": {"x"}})
    assert [one.ended_at for one in shown] == [None]
    look(shown, 12.0, {"A": set(), "B": set()})
    assert [one.ended_at for one in shown] == [12.0]


def test_beyond_the_limit_what_was_told_before_stays_and_nothing_is_called_ended_that_fires() -> None:
    shown, receiver = picture(limit=2), Receiver()
    look(shown, 0.0, {"A": {"x", "y"}})
    receiver.push(shown, 0.0)
    look(shown, 1.0, {"A": {"a", "b", "x", "y"}})
    assert (shown.dropped, receiver.push(shown, 1.0)) == (2, [])
    look(shown, 2.0, {"A": {"a", "b", "y"}})
    assert [(one.identity, one.ended_at) for one in receiver.push(shown, 2.0)] == [("x", 2.0), ("a", None)]
    # What was out of sight comes back beside what took its place: one of the two is not told, and none has ended.
    look(shown, 3.0, {"A": None, "B": {"m", "n"}})
    receiver.push(shown, 3.0)
    look(shown, 4.0, {"A": {"a", "y"}, "B": {"m", "n"}})
    assert {one.identity for one in shown if one.ended_at is not None} == {"x"}


def test_a_limit_that_is_lowered_ends_nothing_that_fires() -> None:
    shown, receiver = picture(limit=2), Receiver()
    look(shown, 0.0, {"A": {"x", "y"}})
    receiver.push(shown, 0.0)
    shown.limit = 1
    look(shown, 70.0, {"A": {"x", "y"}})
    assert [(one.identity, one.ended_at) for one in receiver.push(shown, 70.0)] == [("x", None)]


def test_a_firing_that_ends_before_it_began_by_our_clock_ends_when_it_began() -> None:
    shown = picture()
    shown.look({"A": [standing("x", started_at=10.0)]}, 9.0, 9.0)
    shown.look({}, 9.5, 9.5)
    assert [one.ended_at for one in shown] == [10.0]


def test_a_receiver_that_may_have_restarted_is_told_everything() -> None:
    shown, receiver = picture(), Receiver()
    look(shown, 0.0, {"A": {"x", "y"}})
    receiver.push(shown, 0.0)
    receiver.told.forget()
    assert receiver.told.waiting(shown) == 2
    assert [one.identity for one in receiver.push(shown, 1.0)] == ["x", "y"]
