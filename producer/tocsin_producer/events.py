"""The schedule of events. Pure: time and chance are arguments, so a plan always gives the same events.

All chance comes from `random.Random.random()`, whose sequence Python keeps from version to version, unlike that of
`choice`. Each stream has its own generator, so that more bids or more faults do not move the spikes. Only the names
depend on the installed version of Faker.
"""

import heapq
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

from tocsin_producer.faults import malformed
from tocsin_producer.plan import Plan

CUSTOMER_EVENTS = "customer_events"
WINNING_BIDS = "winning_bids"
TOPICS = (CUSTOMER_EVENTS, WINNING_BIDS)

ITEMS = (
    ("Best Pizza in Town", 0.25),
    ("Signed Baseball", 0.2),
    ("City Bike", 0.2),
    ("Concert Tickets", 0.2),
    ("Custom Art", 0.15),
)
"""What is auctioned, with its probability."""

_LOWEST, _HIGHEST = 500, 12_000  # cents
_BIDDERS = 20

T = TypeVar("T")

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Kind(StrEnum):
    """Why an event is sent."""

    BASELINE = "baseline"
    """One per customer at the start."""
    STEADY = "steady"
    SPIKE = "spike"
    """One of the equal events of one customer."""
    BID = "bid"
    LATE = "late"
    """A regular event again, dated in the past."""
    DUPLICATE = "duplicate"
    """A regular event again, byte for byte."""
    FUTURE = "future"
    """A regular event again, dated in the future."""
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message. `at`: when to send it, in seconds after the start. `value`: JSON in UTF-8, unless malformed."""

    at: float
    kind: Kind
    topic: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """The constant fields of a customer."""

    customer_id: int
    customer_name: str
    deployment_type: str
    organization: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Regular:
    """A valid event before it is encoded. `stamp`: the field with its time."""

    at: float
    kind: Kind
    topic: str
    key: bytes
    stamp: str
    fields: dict[str, Any]


class Schedule:
    """All events of a plan. Its creation draws customers and bidders, which takes Faker a moment."""

    def __init__(self, plan: Plan) -> None:
        from faker import Faker

        self.plan = plan
        names = Faker("en_US")
        names.seed_instance(plan.seed)
        draw = _draws(plan, "customers")
        self.customers = tuple(
            Customer(
                customer_id=number,
                customer_name=names.name(),
                deployment_type="cloud" if draw() < plan.cloud_share else "on_prem",
                organization=_pick(plan.organizations, draw),
            )
            for number in range(plan.customers)
        )
        self.bidders = tuple(names.name() for _ in range(_BIDDERS))

    def events(self, *, start: float) -> Iterator[Event]:
        """The events in order. They do not end unless the plan has a limit, or neither load nor spikes nor bids.

        Args:
            start: epoch seconds at which the schedule begins.
        """
        streams = (self._baseline(), self._spikes(), self._steady(), self._bids())
        regular = heapq.merge(*streams, key=attrgetter("at"))
        return itertools.islice(self._with_faults(regular, start), self.plan.limit)

    def _baseline(self) -> Iterator[_Regular]:
        for customer in self.customers:
            yield _customer_event(0.0, Kind.BASELINE, customer)

    def _steady(self) -> Iterator[_Regular]:
        draw = _draws(self.plan, "steady")
        for at in _slots(self.plan.rate, draw):
            yield _customer_event(at, Kind.STEADY, _pick(self.customers, draw))

    def _spikes(self) -> Iterator[_Regular]:
        plan = self.plan
        if not plan.spike_interval:
            return
        first = plan.spike_interval if plan.first_spike_after is None else plan.first_spike_after
        draw = _draws(plan, "spikes")
        for number in itertools.count():
            event = _customer_event(first + number * plan.spike_interval, Kind.SPIKE, _pick(self.customers, draw))
            yield from itertools.repeat(event, plan.spike_size)

    def _bids(self) -> Iterator[_Regular]:
        draw = _draws(self.plan, "bids")
        for auction_id, at in enumerate(_slots(self.plan.bid_rate, draw), start=1):
            yield _Regular(
                at=at,
                kind=Kind.BID,
                topic=WINNING_BIDS,
                key=b"%d" % auction_id,
                stamp="bid_ts",
                fields={
                    "auction_id": auction_id,
                    "item": _item(draw()),
                    "amount": _money(_LOWEST + int(draw() * (_HIGHEST - _LOWEST + 1))),
                    "bidder": _pick(self.bidders, draw),
                },
            )

    def _with_faults(self, regular: Iterator[_Regular], start: float) -> Iterator[Event]:
        """Each regular event, followed by the faulty ones that chance adds to it. The regular ones do not change: what
        the views show does not depend on the faults."""
        plan = self.plan
        late, future = _draws(plan, "late"), _draws(plan, "future")
        duplicate, malform = _draws(plan, "duplicate"), _draws(plan, "malformed")
        for event in regular:
            now = start + event.at
            valid = _event(event, event.kind, _value(event, now))
            yield valid
            if late() < plan.late:
                yield _event(event, Kind.LATE, _value(event, now - plan.late_by))
            if duplicate() < plan.duplicate:
                yield _event(event, Kind.DUPLICATE, valid.value)
            if future() < plan.future:
                yield _event(event, Kind.FUTURE, _value(event, now + plan.future_by))
            if malform() < plan.malformed:
                stamped = event.fields | {event.stamp: int(now)}
                flaw = _pick(plan.flaws, malform)
                value = malformed(flaw, stamped, draw=malform, size=plan.oversized_bytes)
                yield _event(event, Kind.MALFORMED, value)


def _draws(plan: Plan, stream: str) -> Callable[[], float]:
    return random.Random(f"{plan.seed}/{stream}").random


def _pick(choices: tuple[T, ...], draw: Callable[[], float]) -> T:
    return choices[int(draw() * len(choices))]


def _slots(rate: float, draw: Callable[[], float]) -> Iterator[float]:
    """Moments at `rate` a second: one at random in each slot. Counted from the start, so that no rounding error
    grows."""
    if rate:
        for number in itertools.count():
            yield (number + draw()) / rate


def _item(chance: float) -> str:
    for item, share in ITEMS:
        if chance < share:
            return item
        chance -= share
    return ITEMS[-1][0]


def _money(cents: int) -> str:
    # As text: a JSON number would lose the trailing zero, and in many readers the exactness.
    return f"{cents // 100}.{cents % 100:02d}"


def _customer_event(at: float, kind: Kind, customer: Customer) -> _Regular:
    return _Regular(
        at=at,
        kind=kind,
        topic=CUSTOMER_EVENTS,
        key=b"%d" % customer.customer_id,
        stamp="event_ts",
        fields={**asdict(customer), "event_type": "deployment_created"},
    )


def _event(regular: _Regular, kind: Kind, value: bytes | None) -> Event:
    return Event(at=regular.at, kind=kind, topic=regular.topic, key=regular.key, value=value)


def _value(event: _Regular, time: float) -> bytes:
    return _encode(event.fields | {event.stamp: int(time)}).encode()
