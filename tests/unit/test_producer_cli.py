"""The command as a person or a container runs it: a process, its output, its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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


def lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    return (json.loads(line) for line in process.stdout)


def test_standard_output_gets_one_json_object_per_event() -> None:
    done = finished("--sink", "stdout", "--limit", "10")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["key"] for event in events] == [str(number) for number in range(10)]
    for event in events:
        assert event["topic"] == "customer_events"
        assert event["value"]["event_type"] == "deployment_created"
    assert "10 events sent (baseline 10), 0 errors" in done.stderr


def test_malformed_values_pass_through_standard_output() -> None:
    done = finished(
        "--sink", "stdout", "--limit", "400", "--rate", "10000", "--malformed", "1", "--oversized-bytes", "99"
    )
    assert done.returncode == 0
    shapes = {
        next(name for name in ("value", "text", "base64") if name in json.loads(line))
        for line in done.stdout.splitlines()
    }
    assert shapes == {"value", "text", "base64"}


def test_two_runs_with_the_same_seed_print_the_same_events() -> None:
    def printed() -> list[str]:
        output = finished("--dry-run", "--seed", "11", "--malformed", "0.2", "--limit", "300").stdout
        return re.sub(r'("(?:event|bid)_ts":)\d+', r"\1 0", output).splitlines()

    first = printed()
    assert len(first) == 300
    # What malforms an event may hit its time, which differs from run to run.
    sound = [line for line in first if "malformed" not in line]
    assert sound == [line for line in printed() if "malformed" not in line]


def test_a_dry_run_ends_by_itself_without_a_sink_and_without_waiting() -> None:
    done = finished("--dry-run", "--first-spike-after", "1h")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 41


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_cleanly(number: signal.Signals) -> None:
    with started("--sink", "stdout") as process:
        next(lines(process))
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopping" in said
    assert "10 events sent (baseline 10" in said
    assert "Traceback" not in said


def test_a_reader_that_goes_away_ends_the_run_quietly() -> None:
    with started("--sink", "stdout", "--rate", "200") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert "Traceback" not in said
    assert "Exception" not in said


def test_options_may_come_from_the_environment_and_the_command_line_wins() -> None:
    variables = {"TOCSIN_PRODUCER_SINK": "stdout", "TOCSIN_PRODUCER_LIMIT": "5", "TOCSIN_PRODUCER_ORGANIZATIONS": "X"}
    done = finished(**variables)
    assert [json.loads(line)["value"]["organization"] for line in done.stdout.splitlines()] == ["X"] * 5
    assert finished("--limit", "2", **variables).stdout.count("\n") == 2


def test_an_empty_variable_counts_as_not_set() -> None:
    done = finished("--limit", "1", TOCSIN_PRODUCER_SINK="stdout", TOCSIN_PRODUCER_RATE="")
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {}, "say where to send with --sink kafka or --sink stdout, or use --dry-run"),
        (["--sink", "kafka"], {}, "--sink kafka needs --brokers HOST:PORT"),
        (["--dry-run", "--rate", "fast"], {}, "argument --rate: 'fast' is not a number"),
        (["--dry-run"], {"TOCSIN_PRODUCER_RATE": "fast"}, "variable TOCSIN_PRODUCER_RATE: 'fast' is not a number"),
        (
            ["--dry-run"],
            {"TOCSIN_PRODUCER_SINK": "file"},
            "variable TOCSIN_PRODUCER_SINK: 'file' is none of kafka, stdout",
        ),
        (["--dry-run", "--rate=-1"], {}, "--rate (or TOCSIN_PRODUCER_RATE) must not be negative"),
        (["--dry-run", "--late-by", "soon"], {}, "'soon' is not a time such as 500ms, 25s or 2m"),
        (["--dry-run", "--late-by", "inf"], {}, "--late-by (or TOCSIN_PRODUCER_LATE_BY) must be a finite number"),
        (["--dry-run", "--flaws", "evil"], {}, "'evil' is not a valid Flaw; known are broken, empty"),
        (["--dry-run"], {"TOCSIN_PRODUCER_DRY_RUN": "maybe"}, "'maybe' is neither true nor false"),
    ],
)
def test_options_that_make_no_sense_are_told_in_one_line(
    arguments: list[str], variables: dict[str, str], message: str
) -> None:
    done = finished(*arguments, **variables)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_a_malformed_kafka_option_is_not_repeated_since_it_may_hold_a_password() -> None:
    done = finished("--dry-run", TOCSIN_PRODUCER_KAFKA_OPTION="sasl.username=me,hunter2")
    assert done.returncode == 2
    assert "entry 2 is not of the form NAME=VALUE" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_help_shows_examples_and_every_option_has_its_variable() -> None:
    text = finished("--help").stdout
    assert "tocsin-producer --sink kafka --brokers 127.0.0.1:9092" in text
    assert "TOCSIN_PRODUCER_SPIKE_INTERVAL=25s" in text


def test_metrics_are_served_while_it_runs() -> None:
    with started("--sink", "stdout", "--metrics-port", "0") as process:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
        output = lines(process)
        for _ in range(10):
            next(output)
        # An event is counted once it is handed over, a moment after its line can be read.
        counted = 'tocsin_producer_events_sent_total{kind="baseline",topic="customer_events"} 10.0'
        page = ""
        while counted not in page:
            page = urllib.request.urlopen(address, timeout=10).read().decode()
        process.terminate()
        process.communicate(timeout=20)
    assert re.search(r"^tocsin_producer_lag_seconds \d", page, re.MULTILINE)


def test_a_taken_metrics_port_is_told_in_one_line() -> None:
    done = finished("--sink", "stdout", "--limit", "1", "--metrics-port", "99999")
    assert done.returncode == 1
    assert "cannot serve metrics on 127.0.0.1:99999: no such port" in done.stderr
    assert "Traceback" not in done.stderr


def test_neither_kafka_nor_prometheus_is_imported_unless_used(tmp_path: Path) -> None:
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
