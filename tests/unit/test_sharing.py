"""How the processes of a ledger share its alerts."""

from collections.abc import Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tocsin.ledger.sharing import pause, shares

Table = dict[int, frozenset[str]]
ALERTS = st.sets(st.sampled_from([f"alert-{number}" for number in range(12)]))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """The alerts that each of some processes leads; none is led twice."""
    epochs = draw(st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True))
    leaders = {alert: draw(st.sampled_from(epochs)) for alert in draw(ALERTS)}
    return {epoch: frozenset(alert for alert, leader in leaders.items() if leader == epoch) for epoch in epochs}


def step(led: Table, me: int, wanted: set[str]) -> Table:
    """The table after one process has taken and given."""
    take, give = shares(me, led, wanted)
    assert take <= wanted - set().union(*led.values()), "takes what is free"
    assert give <= led[me], "gives what it leads"
    return {**led, me: (led[me] | take) - give}


def settled(led: Table, wanted: set[str], order: list[int]) -> Table:
    for _ in range(2 * len(led)):
        for me in order:
            led = step(led, me, wanted)
    return led


@given(tables(), ALERTS, st.randoms())
def test_every_alert_gets_one_leader_and_shares_differ_by_one(led: Table, wanted: set[str], chance: Random) -> None:
    """In whatever order the processes look."""
    order = sorted(led)
    chance.shuffle(order)
    ended = settled(led, wanted, order)
    assert sorted(alert for alerts in ended.values() for alert in alerts) == sorted(wanted)
    sizes = [len(alerts) for alerts in ended.values()]
    assert max(sizes) - min(sizes) <= 1
    assert settled(ended, wanted, order) == ended, "nothing moves any more"


@given(tables(), ALERTS)
def test_no_more_alerts_move_than_must(led: Table, wanted: set[str]) -> None:
    """Those that a process leads beyond the largest even share, and those without a leader."""
    ended = settled(led, wanted, sorted(led))
    moved = [alert for alert in wanted if leader(led, alert) not in (None, leader(ended, alert))]
    sizes = sorted((len(alerts & wanted) for alerts in led.values()), reverse=True)
    each, over = divmod(len(wanted), len(led))
    assert len(moved) == sum(max(0, size - each - (place < over)) for place, size in enumerate(sizes))


def test_next_meeting_is_when_a_lease_is_over() -> None:
    """A lease of 2 s is renewed every 0.4 s."""
    assert pause(2.0, []) == 0.4
    assert pause(2.0, [1.7, 1.9]) == 0.4
    assert 0.1 < pause(2.0, [1.7, 0.1]) < 0.11
    assert pause(2.0, [-3.0]) == 0.4, "another process is to end it"


def leader(led: Mapping[int, frozenset[str]], alert: str) -> int | None:
    return next((epoch for epoch, alerts in led.items() if alert in alerts), None)
