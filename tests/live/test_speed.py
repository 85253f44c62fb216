"""Latencies on a live Materialize and a live broker: measured, printed as a table at the end, and limited to a generous
multiple of the targets, since the machine is unknown.

    pytest -m live tests/live/test_speed.py

The targets are for a machine that has time and an optimised server. A source of Materialize's ticks once a second, so
0.6 s of an event's way are Materialize's.
"""

import asyncio
import dataclasses
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from support.alertmanager import ALERTMANAGER, alertmanager
from support.live_model import MEASURED, NEEDS_BOTH, Model, delete_topic, deployment, send, sending
from support.live_stack import Stack, stacked
from support.notifications import LONG
from support.prometheus import PROMETHEUS, prometheus
from support.stack import alertmanager_file, prometheus_config
from support.waiting import until
from tocsin_producer.events import CUSTOMER_EVENTS, Event, Schedule
from tocsin_producer.metrics import Metrics
from tocsin_producer.plan import Plan
from tocsin_producer.run import run
from tocsin_producer.sinks.kafka import KafkaSink

pytestmark = [*NEEDS_BOTH, pytest.mark.timeout(600)]

INBOX_S, ALERTMANAGER_S, PER_SECOND = 2.0, 15.0, 20_000
"""The targets: p95 from an event to the inbox, from an event to Alertmanager's message, events of the producer."""
GENEROUS = 3
SAMPLES = 40
SAMPLES_ALERTMANAGER = 8
LOAD = 200_000

Measured = Callable[[str, str, str], None]
"""Records a measurement: name, value and target, each as text."""


@pytest.fixture
async def stack(shipped: tuple[Model, bool], tmp_path: Path) -> AsyncIterator[Stack]:
    model, history = shipped
    async with stacked(tmp_path, model, history=history) as made:
        yield made


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    def take_down(name: str, value: str, target: str) -> None:
        request.node.user_properties.append((MEASURED, f"| {name} | {value} | {target} |"))

    return take_down


def p95(took: Sequence[float]) -> float:
    return sorted(took)[int(len(took) * 0.95)]


async def test_time_from_event_to_inbox(stack: Stack, sink: KafkaSink, measured: Measured) -> None:
    """One event makes one row: the threshold is 0."""
    names = [await stack.organization(threshold=0) for _ in range(SAMPLES)]
    took = []
    async with stack.tocsin():
        for number, name in enumerate(names):
            began = time.time()
            send(sink, CUSTOMER_EVENTS, deployment(name, event_ts=int(began)))
            await until(lambda name=name: stack.people(name), "the message", LONG)  # type: ignore[misc]
            took.append(time.time() - began)
            await asyncio.sleep(0.137 * (number % 7))  # each at another place of the source's tick
    name = f"event produced -> message in the inbox, p95 of {SAMPLES}"
    measured(name, f"{p95(took):.2f} s (median {sorted(took)[SAMPLES // 2]:.2f} s)", f"<= {INBOX_S:g} s")
    assert p95(took) <= GENEROUS * INBOX_S


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not on the PATH")
@pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")
async def test_time_from_event_to_alertmanager(stack: Stack, sink: KafkaSink, measured: Measured) -> None:
    names = [await stack.organization(threshold=0) for _ in range(SAMPLES_ALERTMANAGER)]
    took = []
    file = alertmanager_file(stack.folder, stack.inbox.url)
    async with (
        stack.tocsin(),
        alertmanager(stack.folder, file) as server,
        prometheus(stack.folder, prometheus_config(stack.config["web"]["listen"], server.port)),
    ):
        for name in names:
            began = time.time()
            send(sink, CUSTOMER_EVENTS, deployment(name, event_ts=int(began)))
            await until(lambda name=name: ("firing", name) in stack.inbox.alerts(), "the alert", LONG)  # type: ignore[misc]
            took.append(time.time() - began)
    name = f"event produced -> message of Alertmanager, longest of {SAMPLES_ALERTMANAGER}"
    measured(name, f"{max(took):.1f} s", f"<= {ALERTMANAGER_S:g} s")
    assert max(took) <= GENEROUS * ALERTMANAGER_S


def test_rate_of_the_producer(measured: Measured) -> None:
    """The schedule, the pace and the sink as the command has them, into a topic that goes with the test, so that no
    view has to read them. The rate exceeds the capacity of any machine."""
    topic = f"tocsin_test_{secrets.token_hex(4)}"
    plan = Plan(rate=1_000_000, bid_rate=0, spike_interval=0, limit=LOAD)
    metrics = Metrics()
    try:
        with sending(metrics) as sink:
            sink.prepare([topic])
            events = (_into(topic, event) for event in Schedule(plan).events(start=time.time()))
            first = next(events)
            began = time.monotonic()
            assert run(itertools.chain([first], events), sink, metrics=metrics, monotonic=time.monotonic, wait=_never)
        took = time.monotonic() - began  # closing waits for the last confirmation
    finally:
        delete_topic(topic)
    assert metrics.delivered[topic] == LOAD
    measured("events of the producer, confirmed", f"{LOAD / took:,.0f} a second", f">= {PER_SECOND:,}")
    assert LOAD / took >= PER_SECOND / GENEROUS


def _into(topic: str, event: Event) -> Event:
    return dataclasses.replace(event, topic=topic)


def _never(seconds: float) -> bool:
    time.sleep(seconds)
    return False
