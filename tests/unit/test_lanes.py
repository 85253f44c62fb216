"""The queue of a channel: one lane per episode, heads only, nothing twice."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.ledger import transition
from tocsin.dispatch.lanes import Lanes
from tocsin.model import Notification


def note(seq: int, key: str = "1", *, not_before: float = 0.0) -> Notification:
    return Notification(seq=seq, id=f"id-{seq}", channel="hook", transition=transition(key), not_before=not_before)


def seqs(notifications: list[Notification]) -> list[int]:
    return [notification.seq for notification in notifications]


def test_only_the_head_of_a_lane_is_ready() -> None:
    lanes = Lanes()
    lanes.add([note(1, "a"), note(2, "a"), note(3, "b")])
    assert (lanes.ready, len(lanes)) == (2, 3)
    assert seqs(lanes.take(10)) == [1, 3]
    assert (lanes.ready, lanes.busy, len(lanes)) == (0, 2, 3)
    assert lanes.take(10) == []


def test_the_next_of_a_lane_is_ready_once_its_head_is_done() -> None:
    lanes = Lanes()
    lanes.add([note(1), note(2)])
    (head,) = lanes.take(1)
    lanes.add([note(3)])
    lanes.done(head)
    assert seqs(lanes.take(5)) == [2]


def test_a_head_to_be_sent_again_holds_its_lane_back_until_its_time_and_others_not() -> None:
    lanes = Lanes()
    lanes.add([note(1, "a"), note(2, "a"), note(3, "b")])
    (head,) = lanes.take(1)
    lanes.again(head, attempts=1, not_before=50.0)
    assert lanes.next_due() == 50.0
    assert seqs(lanes.take(5)) == [3]
    lanes.promote(49.9)
    assert lanes.ready == 0
    lanes.promote(50.0)
    (again,) = lanes.take(5)
    assert (again.seq, again.attempts) == (1, 1)
    assert lanes.next_due() is None


def test_a_head_set_aside_holds_nothing_back() -> None:
    """What followed it, and what comes later, goes on in its own order; the head keeps its time."""
    lanes = Lanes()
    lanes.add([note(1), note(2)])
    (head,) = lanes.take(1)
    lanes.again(head, attempts=0, not_before=50.0, aside=True)
    lanes.add([note(1), note(3)])
    (second,) = lanes.take(5)
    lanes.done(second)
    assert (second.seq, seqs(lanes.take(5)), len(lanes)) == (2, [3], 2)
    lanes.promote(50.0)
    (again,) = lanes.take(5)
    assert (again.seq, lanes.under_way()) == (1, {1, 3})
    lanes.again(again, attempts=0, not_before=60.0, aside=True)
    lanes.promote(60.0)
    (last,) = lanes.take(5)
    lanes.done(last)
    assert (last.seq, len(lanes)) == (1, 1)


def test_what_is_not_due_yet_waits_from_the_start() -> None:
    lanes = Lanes()
    lanes.add([note(1, not_before=50.0)])
    assert (lanes.ready, lanes.next_due()) == (0, 50.0)


def test_what_is_already_there_is_passed_over() -> None:
    lanes = Lanes()
    lanes.add([note(1), note(2)])
    lanes.take(1)
    lanes.add([note(1), note(2), note(3)])
    assert len(lanes) == 3


def test_forgetting_keeps_only_what_is_on_its_way() -> None:
    lanes = Lanes()
    lanes.add([note(1, "a"), note(2, "a"), note(3, "b"), note(4, "c", not_before=9.0)])
    (head,) = lanes.take(1)
    lanes.forget_waiting()
    assert (len(lanes), lanes.ready, lanes.busy, lanes.next_due()) == (1, 0, 1, None)
    lanes.add([note(1, "a"), note(2, "a"), note(5, "d")])
    assert seqs(lanes.take(5)) == [5]
    lanes.done(head)
    assert seqs(lanes.take(5)) == [2]


class LanesMachine(RuleBasedStateMachine):
    """Against a model that is one list: pending notifications in order, with when each may go and which are out."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.now = 0.0
        self.seq = 0
        self.here: list[Notification] = []
        self.out: list[Notification] = []

    @rule(keys=st.lists(st.sampled_from("abc"), max_size=4), delay=st.sampled_from((0.0, 0.0, 3.0)))
    def add(self, keys: list[str], delay: float) -> None:
        new = [
            note(self.seq + number, key, not_before=self.now + delay if delay else 0.0)
            for number, key in enumerate(keys, 1)
        ]
        self.seq += len(new)
        self.lanes.add(new)
        self.here += new

    @rule(seconds=st.sampled_from((0.0, 1.0, 5.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 4))
    def take(self, count: int) -> None:
        self.lanes.promote(self.now)
        taken = self.lanes.take(count)
        heads = self._heads()
        assert set(seqs(taken)) <= heads.keys()
        assert len(taken) == min(count, len(heads))
        assert taken == [heads[one.seq] for one in taken]
        self.out += taken

    def _heads(self) -> dict[int, Notification]:
        first: dict[str, Notification] = {}
        for one in sorted(self.here, key=lambda one: one.seq):
            first.setdefault(one.transition.fingerprint, one)
        busy = seqs(self.out)
        return {one.seq: one for one in first.values() if one.seq not in busy and one.not_before <= self.now}

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        one = self._came_back(data)
        self.lanes.done(one)
        self.here = [other for other in self.here if other.seq != one.seq]

    @precondition(lambda self: self.out)
    @rule(data=st.data(), delay=st.sampled_from((0.0, 2.0)))
    def again(self, data: st.DataObject, delay: float) -> None:
        one = self._came_back(data)
        not_before = self.now + delay if delay else 0.0
        self.lanes.again(one, attempts=one.attempts + 1, not_before=not_before)
        later = Notification(
            seq=one.seq, id=one.id, channel=one.channel, transition=one.transition, attempts=one.attempts + 1,
            not_before=not_before,
        )  # fmt: skip
        self.here = [later if other.seq == one.seq else other for other in self.here]

    @rule()
    def forget_and_read_again(self) -> None:
        self.lanes.forget_waiting()
        self.lanes.add(self.here)

    def _came_back(self, data: st.DataObject) -> Notification:
        return self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.lanes) == len(self.here)
        assert self.lanes.busy == len(self.out)


LanesMachine.TestCase.settings = settings(max_examples=100, deadline=None)
test_lanes_hand_out_what_one_plain_list_would = LanesMachine.TestCase
