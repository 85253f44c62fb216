"""Latencies on a live Materialize and a live broker: measured, printed as a table at the end, and limited to a generous
multiple of the targets, since the machine is unknown.

    pytest -m live tests/live/test_speed.py

The targets are for an idle machine and an optimised server. A Kafka source of Materialize ticks once a second, which is
0.6 s of an event's way on average.
"""

import asyncio
import dataclasses
import secrets
import time
from asyncio import to_thread
from collections.abc import Callable, Sequence

import pytest

from live.model import MEASURED, NEEDS_BOTH, Stack, delete_topic, deployment, send, sending
from support.alertmanager import alertmanager
from support.notifications import LONG
from support.prometheus import prometheus
from support.stack import alertmanager_file, prometheus_config
from support.waiting import until
from tocsin_producer.events import CUSTOMER_EVENTS, Schedule
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
def measured(request: pytest.FixtureRequest) -> Measured:
    def record(name: str, value: str, target: str) -> None:
        request.node.user_properties.append((MEASURED, f"| {name} | {value} | {target} |"))

    return record


async def times(stack: Stack, sink: KafkaSink, count: int, has_arrived: Callable[[str], object]) -> Sequence[float]:
    """Seconds from an event, which makes one row, until it has arrived, sorted. The threshold is 0."""
    took = []
    for number in range(count):
        name = await to_thread(stack.model.organization, 0)
        began = time.time()
        send(sink, CUSTOMER_EVENTS, deployment(name, event_ts=int(began)))
        await until(lambda name=name: has_arrived(name), "the message", LONG)  # type: ignore[misc]
        took.append(time.time() - began)
        await asyncio.sleep(0.137 * (number % 7))  # each at another place of the source's tick
    return sorted(took)


async def test_time_from_event_to_inbox(stack: Stack, sink: KafkaSink, measured: Measured) -> None:
    async with stack.tocsin():
        took = await times(stack, sink, SAMPLES, stack.people)
    p95, median = took[int(len(took) * 0.95)], took[SAMPLES // 2]
    name = f"event produced -> message in the inbox, p95 of {SAMPLES}"
    measured(name, f"{p95:.2f} s (median {median:.2f} s)", f"<= {INBOX_S:g} s")
    assert p95 <= GENEROUS * INBOX_S


async def test_time_from_event_to_alertmanager(stack: Stack, sink: KafkaSink, measured: Measured) -> None:
    async with (
        stack.tocsin(),
        alertmanager(stack.folder, alertmanager_file(stack.folder, stack.inbox.url)) as server,
        prometheus(stack.folder, prometheus_config(stack.config["web"]["listen"], server.port)),
    ):
        alerts = stack.inbox.alerts
        took = await times(stack, sink, SAMPLES_ALERTMANAGER, lambda name: ("firing", name) in alerts())
    name = f"event produced -> message of Alertmanager, longest of {SAMPLES_ALERTMANAGER}"
    measured(name, f"{took[-1]:.1f} s", f"<= {ALERTMANAGER_S:g} s")
    assert took[-1] <= GENEROUS * ALERTMANAGER_S


def test_rate_of_the_producer(measured: Measured) -> None:
    """The schedule, the pace and the sink as the command has them, into a topic that is dropped after the test, so that
    no view has to read them. The rate exceeds the capacity of any machine."""
    topic = f"tocsin_test_{secrets.token_hex(4)}"
    plan = Plan(rate=1_000_000, bid_rate=0, spike_interval=0, limit=LOAD)
    metrics = Metrics()
    try:
        with sending(metrics) as sink:
            sink.prepare([topic])
            began = time.monotonic()
            events = (dataclasses.replace(each, topic=topic) for each in Schedule(plan).events(start=time.time()))
            assert run(events, sink, metrics=metrics, monotonic=time.monotonic, wait=wait)
        took = time.monotonic() - began  # closing waits for the last confirmation
    finally:
        delete_topic(topic)
    assert metrics.delivered[topic] == LOAD
    measured("events of the producer, confirmed", f"{LOAD / took:,.0f} a second", f">= {PER_SECOND:,}")
    assert LOAD / took >= PER_SECOND / GENEROUS


def wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False
