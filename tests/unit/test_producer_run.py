"""Pace, stop and counters of a run, on the test's clock."""

import logging
from collections.abc import Iterable, Iterator

import pytest

from tocsin_producer.errors import EventRefusedError
from tocsin_producer.events import Event, Kind, Schedule
from tocsin_producer.metrics import Metrics
from tocsin_producer.plan import Plan
from tocsin_producer.run import PULSE, run


class Clock:
    """A clock that advances only by waits and by the time of a sink."""

    def __init__(self, *, stop_at: float = float("inf")) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self._stop_at = 1000.0 + stop_at

    @property
    def elapsed(self) -> float:
        return self.now - 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now = min(self.now + seconds, max(self.now, self._stop_at))
        return self.now >= self._stop_at


class Recorder:
    """A sink that records events and their times."""

    def __init__(self, clock: Clock, *, takes: float = 0.0, refuses: Iterable[bytes] = ()) -> None:
        self.sent: list[tuple[float, bytes]] = []
        self.flushed: list[float] = []
        self.kept = 0
        self._clock = clock
        self._takes = takes
        self._refuses = set(refuses)

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:  # as the protocol has it
        if key in self._refuses:
            raise EventRefusedError("too large")
        self._clock.now += self._takes
        self.sent.append((self._clock.elapsed, key))
        self.kept += 1

    def flush(self) -> None:
        self.flushed.append(self._clock.elapsed)
        self.kept = 0

    def close(self) -> None:
        raise AssertionError("the caller closes the sink")


def at(*times: float, topic: str = "customer_events") -> Iterator[Event]:
    for number, time in enumerate(times):
        yield Event(at=time, kind=Kind.STEADY, topic=topic, key=b"%d" % number, value=b"{}")


def paced(events: Iterable[Event], clock: Clock, sink: Recorder, metrics: Metrics | None = None) -> bool:
    return run(events, sink, metrics=metrics or Metrics(), monotonic=clock.monotonic, wait=clock.wait)


def test_events_are_sent_at_their_time() -> None:
    clock = Clock()
    sink = Recorder(clock)
    assert paced(at(0.0, 0.5, 0.5, 7.25), clock, sink)
    assert sink.sent == [(0.0, b"0"), (0.5, b"1"), (0.5, b"2"), (7.25, b"3")]


def test_run_catches_up_with_a_slow_sink() -> None:
    clock = Clock()
    sink = Recorder(clock, takes=2.0)
    metrics = Metrics()
    assert paced(at(0.0, 1.0, 2.0), clock, sink, metrics)
    assert [time for time, _ in sink.sent] == [2.0, 4.0, 6.0]
    assert metrics.lag_seconds == 4.0


def test_flushes_every_second_while_waiting() -> None:
    """And before each wait, and at the end."""
    clock = Clock()
    sink = Recorder(clock)
    assert paced(at(0.0, 0.0, 4.5), clock, sink)
    assert sink.flushed == [0.0, 1.0, 2.0, 3.0, 4.0, 4.5]
    assert max(clock.waits) == PULSE
    assert sink.kept == 0


def test_busy_sink_is_flushed_and_can_be_stopped() -> None:
    clock = Clock(stop_at=600)
    sink = Recorder(clock, takes=1.0)
    assert not paced(at(*[0.0] * 2000), clock, sink)
    assert sink.flushed
    assert 600 <= len(sink.sent) < 2000


def test_refused_event_is_counted_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    sink = Recorder(clock, refuses=[b"1"])
    metrics = Metrics()
    with caplog.at_level(logging.WARNING):
        assert paced(at(0.0, 1.0, 2.0), clock, sink, metrics)
    assert [key for _, key in sink.sent] == [b"0", b"2"]
    assert metrics.errors == {"customer_events": 1}
    assert metrics.sent == {("customer_events", "steady"): 2}
    assert "an event for customer_events was refused: too large" in caplog.text


def test_events_are_counted_by_topic_and_kind() -> None:
    clock = Clock()
    metrics = Metrics()
    sink = Recorder(clock)
    assert paced(Schedule(Plan(first_spike_after=1, bid_rate=1, limit=400)).events(start=0.0), clock, sink, metrics)
    assert metrics.sent.total() == len(sink.sent) == 400
    assert metrics.sent["customer_events", "baseline"] == 10
    assert metrics.sent["customer_events", "spike"] >= 20
    assert metrics.sent["winning_bids", "bid"] > 50
    assert "400 events sent (baseline 10, " in metrics.summary()
