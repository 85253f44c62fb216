"""The schedule depends only on the plan and the start."""

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from tocsin_producer.errors import PlanError
from tocsin_producer.events import ITEMS, WINNING_BIDS, Event, Kind, Schedule
from tocsin_producer.plan import Flaw, Plan

START = 1_800_000_000.25


def drawn(count: int, **options: Any) -> list[Event]:
    return list(itertools.islice(Schedule(Plan(**options)).events(start=START), count))


def decoded(event: Event) -> dict[str, Any]:
    assert event.value is not None
    value = json.loads(event.value)
    assert isinstance(value, dict)
    return value


def test_same_seed_gives_same_events() -> None:
    noisy = {"seed": 5, "late": 0.1, "duplicate": 0.1, "future": 0.1, "malformed": 0.1}
    assert drawn(2000, **noisy) == drawn(2000, **noisy)
    assert drawn(200, seed=5) != drawn(200, seed=6)


def test_seed_keeps_its_events_between_versions() -> None:
    # Without the names, which are Faker's. A change here breaks what recordings and the demo rely on.
    digest = hashlib.sha256()
    for event in drawn(1000, seed=7, rate=1, malformed=0.2, flaws=(Flaw.NULL, Flaw.EMPTY)):
        fields = decoded(event) if event.value else {}
        kept = {name: value for name, value in fields.items() if name not in ("customer_name", "bidder")}
        digest.update(f"{event.at:.6f} {event.kind} {event.key!r} {sorted(kept.items())}\n".encode())
    assert digest.hexdigest() == "4e1505e04b5317fa9a7cec48aa549fcebff115b911d876c5ba581eedcb8d60ed"


def test_customer_event_has_six_fields() -> None:
    """Those of a customer stay the same."""
    customers = Schedule(Plan()).customers
    for event in drawn(300, bid_rate=0, rate=2):
        fields = decoded(event)
        customer = customers[int(event.key)]
        assert fields.pop("event_ts") == int(START + event.at)
        assert fields == {**asdict(customer), "event_type": "deployment_created"}
        assert customer.deployment_type in ("cloud", "on_prem")
        assert customer.organization in ("A", "B", "C", "D")


def test_customers_are_spread_over_types_and_organizations() -> None:
    customers = Schedule(Plan(customers=2000)).customers
    assert sum(customer.deployment_type == "cloud" for customer in customers) == pytest.approx(400, rel=0.15)
    for count in Counter(customer.organization for customer in customers).values():
        assert count == pytest.approx(500, rel=0.15)


def test_spikes_are_equal_events_at_their_interval() -> None:
    options = {"rate": 0, "bid_rate": 0, "spike_interval": 25, "first_spike_after": 2, "spike_size": 3}
    events = drawn(200, **options)
    spikes = [event for event in events if event.kind is Kind.SPIKE]
    groups = [list(group) for _, group in itertools.groupby(spikes, key=lambda event: event.at)]
    assert [group[0].at for group in groups[:3]] == [2.0, 27.0, 52.0]
    assert {(len(group), len(set(group))) for group in groups[:-1]} == {(3, 1)}
    assert len({group[0].key for group in groups}) > 3
    assert [event.kind for event in events[:10]] == [Kind.BASELINE] * 10


def test_steady_load_keeps_its_rate_every_second() -> None:
    steady = [event.at for event in drawn(1100, rate=4, bid_rate=0, spike_interval=0) if event.kind is Kind.STEADY]
    assert {sum(second <= at < second + 1 for at in steady) for second in range(200)} == {4}


def test_bid_has_five_fields() -> None:
    bids = [event for event in drawn(2000, bid_rate=2) if event.kind is Kind.BID]
    for number, event in enumerate(bids, start=1):
        fields = decoded(event)
        assert event.topic == WINNING_BIDS
        assert set(fields) == {"auction_id", "item", "amount", "bidder", "bid_ts"}
        assert fields["auction_id"] == number
        assert event.key == str(number).encode()
        whole, _, cents = fields["amount"].partition(".")
        assert whole.isdigit()
        assert len(cents) == 2
        assert fields["bid_ts"] == int(START + event.at)
    assert {decoded(event)["item"] for event in bids} == {item for item, _ in ITEMS}
    pizzas = [float(decoded(event)["amount"]) for event in bids if decoded(event)["item"] == "Best Pizza in Town"]
    assert min(pizzas) <= 90 < max(pizzas)


def test_faults_and_bids_do_not_shift_spikes() -> None:
    plan = Plan(seed=3, rate=1, bid_rate=0)
    noisy = replace(plan, bid_rate=5, late=0.5, duplicate=0.5, future=0.5, malformed=0.5)
    regular = (Kind.BASELINE, Kind.STEADY, Kind.SPIKE)

    def regulars(plan: Plan) -> list[Event]:
        events = (event for event in Schedule(plan).events(start=START) if event.kind in regular)
        return list(itertools.islice(events, 300))

    assert regulars(noisy) == regulars(plan)


def test_faults_have_their_share_of_regular_events() -> None:
    shares = {Kind.LATE: 0.05, Kind.DUPLICATE: 0.1, Kind.FUTURE: 0.15, Kind.MALFORMED: 0.2}
    options: dict[str, Any] = {str(kind): share for kind, share in shares.items()}
    counts = Counter(event.kind for event in drawn(10_000, rate=10, flaws=(Flaw.NULL,), **options))
    faults = {kind: counts.pop(kind) for kind in shares}
    assert {kind: count / counts.total() for kind, count in faults.items()} == pytest.approx(shares, rel=0.1)


def test_faulty_events_differ_only_in_time() -> None:
    events = drawn(2000, late=1, late_by=600, duplicate=1, future=1, future_by=3600)
    offsets = {Kind.LATE: -600, Kind.DUPLICATE: 0, Kind.FUTURE: 3600}
    for start in range(0, len(events), 4):
        regular, *faults = events[start : start + 4]
        assert {event.kind for event in faults} == set(offsets)
        stamp = "bid_ts" if regular.topic == WINNING_BIDS else "event_ts"
        for event in faults:
            expected = decoded(regular)
            expected[stamp] = int(START + regular.at + offsets[event.kind])
            assert (event.at, event.topic, event.key) == (regular.at, regular.topic, regular.key)
            assert decoded(event) == expected
            if event.kind is Kind.DUPLICATE:
                assert event.value == regular.value


def _parsed(value: bytes) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(value)
    return None


HAS: dict[Flaw, Callable[[Any], bool]] = {
    Flaw.NULL: lambda value: value is None,
    Flaw.EMPTY: lambda value: value == b"",
    Flaw.OVERSIZED: lambda value: len(value) > 50_000 and isinstance(_parsed(value), dict),
    Flaw.TYPES: lambda value: not isinstance(_parsed(value).get("customer_id", _parsed(value).get("auction_id")), int),
    Flaw.TEXT: lambda value: b"\\u0000" in value or b"\\ud83d" in value,
    Flaw.ENCODING: lambda value: b"\xff\xfe\xc3" in value,
    Flaw.BROKEN: lambda value: not isinstance(_parsed(value), dict),
    Flaw.SHAPE: lambda value: not isinstance(_parsed(value), dict),
}


@pytest.mark.parametrize("flaw", list(Flaw))
def test_malformed_event_has_its_flaw(flaw: Flaw) -> None:
    events = drawn(400, rate=2, malformed=1, flaws=(flaw,), oversized_bytes=50_000)
    values = [event.value for event in events if event.kind is Kind.MALFORMED]
    assert values
    assert all(map(HAS[flaw], values))


@pytest.mark.parametrize(
    "options",
    [
        *({"rate": -1.0}, {"rate": float("nan")}, {"malformed": 1.5}, {"spike_size": 0}, {"customers": 0}),
        *({"organizations": ()}, {"organizations": ("A", "")}, {"flaws": ()}, {"limit": -1}),
    ],
)
def test_plan_out_of_range_names_its_option(options: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as refused:
        Plan(**options)
    assert [refused.value.option] == [*options]
