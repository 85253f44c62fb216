"""Any sequence of calls to a ledger, against a model of dictionaries."""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.clock import Clock
from support.ledger import IMPLEMENTATIONS, commit, firing, settlement, transition
from tocsin.firing import Firing
from tocsin.ledger.base import Backlog, Filter, Ledger, Status
from tocsin.ledger.postgres import append
from tocsin.ledger.postgres.transaction import FEW
from tocsin.model import Kind, Notification, Transition, notification_id

T = TypeVar("T")
ALERTS = st.sampled_from(("late", "early"))
KEYS = st.sampled_from((None, "", "1", "2"))
ODD = 'it\'s "odd"'
CHANNELS = st.sampled_from(("hook", ODD))
ROUTES = st.sampled_from(((), ("hook",), ("hook", ODD)))
KINDS = [kind for kind in Kind if kind is not Kind.EVENT]  # times are no part of an event's identity
STATUSES = st.sampled_from((Status.PENDING, Status.DELIVERED, Status.DEAD))


@dataclass
class Known:
    """A notification in the model."""

    notification: Notification
    status: Status = Status.PENDING
    attempts: int = 0
    created_at: float = 0.0
    not_before: float = 0.0
    settled_at: float | None = None


class LedgerMachine(RuleBasedStateMachine):
    """Each rule does the same to the ledger and to the model; the invariants compare what can be read."""

    implementation = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="tocsin-ledger-")
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.firings: dict[str, dict[str, Firing]] = {}
        self.frontiers: dict[str, int | None] = {}
        self.known: dict[str, Known] = {}
        self.claimed: dict[int, Notification] = {}

    def do(self, asked: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(asked)

    @initialize()
    def open(self) -> None:
        path = Path(self.directory.name) / "ledger"
        self.ledger: Ledger = self.do(IMPLEMENTATIONS[self.implementation](path, clock=self.clock))

    def teardown(self) -> None:
        self.do(self.ledger.close())
        self.runner.close()
        self.directory.cleanup()

    @rule()
    def restart(self) -> None:
        self.do(self.ledger.close())
        self.claimed.clear()
        self.open()

    @rule(
        alert=ALERTS,
        to=ROUTES,
        frontier=st.none() | st.integers(0, 2**60),
        saved=st.sets(KEYS),
        gone=st.sets(KEYS),
        happened=st.lists(st.tuples(KEYS, st.sampled_from(KINDS), st.integers(1, 3), st.integers(1, 4)), max_size=4),
        replace=st.booleans(),
    )
    def commit(
        self,
        alert: str,
        to: tuple[str, ...],
        frontier: int | None,
        saved: set[str | None],
        gone: set[str | None],
        happened: list[tuple[str | None, Kind, int, int]],
        replace: bool,
    ) -> None:
        self.clock.advance(1)
        firings = [firing(key, alert=alert, started_at=len(saved)) for key in saved]
        vanished = [firing(key, alert=alert).fingerprint for key in gone - saved]
        transitions = [
            transition(key, kind, alert=alert, started_at=started_at, at=at) for key, kind, started_at, at in happened
        ]
        batch = commit(
            transitions, to=to, alert=alert, frontier=frontier, saved=firings, gone=vanished, replace=replace
        )
        notifications = self.do(self.ledger.commit(batch))
        stored = self.firings.setdefault(alert, {})
        if replace:
            stored.clear()
        for name in vanished:
            stored.pop(name, None)
        stored |= {one.fingerprint: one for one in firings}
        self.frontiers[alert] = frontier
        assert [(one.id, one.channel, one.transition) for one in notifications] == self._new(transitions, to)
        for one in notifications:
            assert one.seq > max((other.notification.seq for other in self.known.values()), default=0)
            self.known[one.id] = Known(one, created_at=self.clock.now)

    def _new(self, transitions: list[Transition], to: tuple[str, ...]) -> list[tuple[str, str, Transition]]:
        asked = {notification_id(one, channel): (channel, one) for one in transitions for channel in to}
        return [(name, *what) for name, what in asked.items() if name not in self.known]

    @precondition(lambda self: self.known)
    @rule(data=st.data(), status=STATUSES, wait=st.integers(0, 2))
    def settle(self, data: st.DataObject, status: Status, wait: int) -> None:
        known, now = self._choose(data), self.clock.now
        more = {"at": now, "not_before": now + wait}
        self.do(self.ledger.settle([settlement(one.notification, status, **more) for one in known]))
        for one in known:
            self.claimed.pop(one.notification.seq, None)
            if one.status is Status.PENDING:
                one.status, one.attempts, one.not_before = status, 1, now + wait
                one.settled_at = None if status is Status.PENDING else now

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.clock.advance(1)
        known = self._choose(data)
        revived = [one for one in known if one.status in (Status.DEAD, Status.DROPPED)]
        assert self.do(self.ledger.retry([one.notification.id for one in known])) == len(revived)
        for one in revived:
            one.status, one.attempts, one.created_at, one.settled_at = Status.PENDING, 0, self.clock.now, None
            one.not_before = 0.0

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        known = self._choose(data)
        dropped = [one for one in known if one.status in (Status.DEAD, Status.PENDING)]
        assert self.do(self.ledger.drop([one.notification.id for one in known])) == len(dropped)
        for one in dropped:
            one.status, one.settled_at = Status.DROPPED, self.clock.now

    @rule(channels=st.sets(st.sampled_from(("hook", ODD, "new"))))
    def unroute(self, channels: set[str]) -> None:
        unrouted = [one for one in self._pending() if one.notification.channel not in channels]
        assert self.do(self.ledger.dead_letter_unrouted(sorted(channels))) == len(unrouted)
        for one in unrouted:
            one.status, one.settled_at = Status.DEAD, self.clock.now

    @rule(age=st.integers(0, 5), limit=st.integers(1, 4))
    def prune(self, age: int, limit: int) -> None:
        before = self.clock.now - age
        episodes = {(name, one.started_at) for kept in self.firings.values() for name, one in kept.items()}
        old = {
            name
            for name, one in self.known.items()
            if one.status in (Status.DELIVERED, Status.DROPPED)
            and one.settled_at is not None
            and one.settled_at < before
            and (one.notification.transition.fingerprint, one.notification.transition.started_at) not in episodes
        }
        count = self.do(self.ledger.prune(before, limit))
        assert count == min(limit, len(old))
        left = {one.id for one in self.do(self.ledger.find(Filter(limit=10_000)))}
        assert self.known.keys() - left <= old
        assert len(self.known) - len(left) == count
        self.known = {name: one for name, one in self.known.items() if name in left}

    def _choose(self, data: st.DataObject) -> list[Known]:
        names = data.draw(st.lists(st.sampled_from(sorted(self.known)), unique=True, max_size=3))
        return [self.known[name] for name in names]

    def _pending(self) -> list[Known]:
        return [one for one in self.known.values() if one.status is Status.PENDING]

    @invariant()
    def stored_alerts_are_those_committed(self) -> None:
        for alert in ("late", "early"):
            stored = self.do(self.ledger.load(alert))
            assert (stored is not None) == (alert in self.frontiers)
            if stored is not None:
                assert stored.frontier == self.frontiers[alert]
                assert {one.fingerprint: one for one in stored.firings} == self.firings[alert]

    @rule(channel=CHANNELS)
    def claim(self, channel: str) -> None:
        """The first pending one of each ordering key is claimed, if none of its key is and its time has come."""
        found = self.do(self.ledger.claim(channel, 10_000)).heads
        busy = {one.ordering_key for one in self.claimed.values() if one.channel == channel}
        heads: dict[str, Known] = {}
        for one in sorted(self._pending(), key=lambda one: one.notification.seq):
            if one.notification.channel == channel:
                heads.setdefault(one.notification.ordering_key, one)
        expected = [one for key, one in heads.items() if key not in busy and one.not_before <= self.clock.now]
        assert [(one.id, one.attempts, one.created_at, one.transition) for one in found] == [
            (one.notification.id, one.attempts, one.created_at, one.notification.transition) for one in expected
        ]
        self.claimed |= {one.seq: one for one in found}

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        one = self.claimed.pop(data.draw(st.sampled_from(sorted(self.claimed))))
        self.do(self.ledger.release([one]))

    @rule(channel=CHANNELS)
    def recover(self, channel: str) -> None:
        self.do(self.ledger.recover(channel, 0.0, 0.0))
        self.claimed = {seq: one for seq, one in self.claimed.items() if one.channel != channel}

    @invariant()
    def records_and_backlog_agree_with_the_statuses(self) -> None:
        found = {one.id: (one.status, one.settled_at) for one in self.do(self.ledger.find(Filter(limit=10_000)))}
        assert found == {name: (one.status, one.settled_at) for name, one in self.known.items()}
        counted: dict[str, Backlog] = {}
        for channel in ("hook", ODD):
            of_channel = [one for one in self.known.values() if one.notification.channel == channel]
            waiting = [one.created_at for one in of_channel if one.status is Status.PENDING]
            dead = sum(one.status is Status.DEAD for one in of_channel)
            if waiting or dead:
                oldest = min(waiting, default=None)
                counted[channel] = Backlog(pending=len(waiting), oldest=oldest, dead=dead)
        assert self.do(self.ledger.backlog()) == counted


@pytest.mark.parametrize(("name", "few"), [("sqlite", 0), ("postgres", FEW), ("postgres", 0)])
def test_any_history_agrees_with_the_model(name: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`few`: the most new notifications that the server places."""
    monkeypatch.setattr(append, "FEW", few)
    machine = type("Machine", (LedgerMachine,), {"implementation": name})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))
