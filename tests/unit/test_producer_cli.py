"""The producer's command: its options, and a process with its output and exit status."""

import itertools
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

import pytest

from support.waiting import seen
from tocsin_producer.cli import _parser, main
from tocsin_producer.plan import Plan

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
