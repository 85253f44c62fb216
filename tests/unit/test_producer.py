"""The producer: its command, a schedule that depends only on the plan and the start, and its pace."""

import hashlib
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from support.waiting import seen
from tocsin_producer.cli import _parser, main
from tocsin_producer.errors import EventRefusedError
from tocsin_producer.events import ITEMS, WINNING_BIDS, Event, Kind, Schedule
from tocsin_producer.metrics import Metrics
from tocsin_producer.plan import Flaw, Plan
from tocsin_producer.run import PULSE, run

COMMAND = [sys.executable, "-m", "tocsin_producer"]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_PRODUCER_")}
    return {**kept, **variables}


def finished(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(**variables), capture_output=True, text=True, timeout=30
    )


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# Options


def test_defaults_are_those_of_the_plan() -> None:
    options = _parser().parse_args([])
    assert Plan(**{name: getattr(options, name) for name in Plan.__dataclass_fields__}) == Plan()


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "choose where to send"),
        (["--sink", "kafka"], {}, "--sink kafka needs --brokers HOST:PORT"),
        (["--dry-run"], {"RATE": "fast"}, "argument --rate: invalid float value: 'fast'"),
        (["--dry-run"], {"SINK": "file"}, "argument --sink: invalid choice: 'file'"),
        (["--dry-run", "--rate=-1"], {}, "argument --rate: must not be negative"),
        (["--dry-run", "--rate=nan"], {}, "argument --rate: "),
        (["--dry-run", "--malformed", "1.5"], {}, "argument --malformed: "),
        (["--dry-run", "--spike-size", "0"], {}, "argument --spike-size: "),
        (["--dry-run", "--organizations", ""], {}, "argument --organizations: "),
        (["--dry-run", "--limit=-1"], {}, "argument --limit: "),
        (["--dry-run", "--late-by", "soon"], {}, "'soon' is not a time such as 500ms, 25s or 2m"),
        (["--dry-run", "--flaws", "evil"], {}, "'evil' is not a valid Flaw; choose from broken, empty"),
        ([], {"DRY_RUN": "maybe"}, "'maybe' is neither true nor false"),
        (["--dry-run"], {"KAFKA_OPTION": "sasl.username=me,hunter2"}, "entry 2 is not of the form NAME=VALUE"),
    ],
)
def test_wrong_usage_is_a_one_line_error(
    arguments: list[str], variables: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, {f"TOCSIN_PRODUCER_{name}": value for name, value in variables.items()})
    output = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in output.splitlines()[-1]
    assert "hunter2" not in output


def test_command_line_wins_over_environment() -> None:
    """An empty variable counts as unset."""
    variables = {"SINK": "stdout", "LIMIT": "5", "ORGANIZATIONS": "X", "RATE": "", "DRY_RUN": "false"}
    environ = {f"TOCSIN_PRODUCER_{name}": value for name, value in variables.items()}
    done = finished("--limit", "2", **environ)
    assert [json.loads(line)["value"]["organization"] for line in done.stdout.splitlines()] == ["X"] * 2


# A process


def test_stdout_gets_one_json_object_per_event() -> None:
    done = finished("--sink", "stdout", "--limit", "400", "--rate", "10000", "--malformed", "1")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {*itertools.chain(*events)} == {"topic", "key", "value", "text", "base64"}
    assert (events[0]["topic"], events[0]["key"]) == ("customer_events", "0")
    assert events[0]["value"]["event_type"] == "deployment_created"
    assert "400 events sent (baseline 10" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_cleanly(number: signal.Signals) -> None:
    with started("--sink", "stdout") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopping" in log
    assert "10 events sent (baseline 10" in log
    assert "Traceback" not in log


def test_closed_output_ends_the_run_quietly() -> None:
    with started("--sink", "stdout", "--rate", "200") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert "Traceback" not in log
    assert "Exception" not in log


def test_metrics_are_served_while_it_runs() -> None:
    with started("--sink", "stdout", "--metrics-port", "0") as process:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))

        def page() -> str:
            return str(urllib.request.urlopen(address, timeout=10).read().decode())

        counted = 'tocsin_producer_events_sent_total{kind="baseline",topic="customer_events"} 10.0'
        seen(lambda: counted in page(), "the count of the events at the start")
        assert re.search(r"^tocsin_producer_lag_seconds \d", page(), re.MULTILINE)


def test_extras_are_imported_only_when_used(tmp_path: Path) -> None:
    for module in ("confluent_kafka", "prometheus_client"):
        (tmp_path / f"{module}.py").write_text("raise ImportError\n")
    blocked = {"PYTHONPATH": str(tmp_path)}
    assert finished("--sink", "stdout", "--limit", "1", **blocked).returncode == 0
    for option, extra in (
        (["--sink", "kafka", "--brokers", "127.0.0.1:9"], "kafka"),
        (["--metrics-port", "0"], "metrics"),
    ):
        done = finished("--sink", "stdout", "--limit", "1", *option, **blocked)
        assert done.returncode == 1
        assert f"pip install 'tocsin-producer[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


# The schedule.


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
    """Its amount has two decimals, on both sides of the threshold of the demo."""
    bids = [event for event in drawn(2000, bid_rate=2) if event.kind is Kind.BID]
    for number, event in enumerate(bids, start=1):
        fields = decoded(event)
        assert (event.topic, event.key) == (WINNING_BIDS, str(number).encode())
        assert fields.keys() == {"auction_id", "item", "amount", "bidder", "bid_ts"}
        assert (fields["auction_id"], fields["bid_ts"]) == (number, int(START + event.at))
        assert re.fullmatch(r"\d+\.\d\d", fields["amount"])
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


# The pace, the end and the counters of a run.


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
