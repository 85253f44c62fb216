"""`make demo`, as a user runs it: its output, and no process or file left after any kind of end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import pytest

from support.waiting import seen
from tocsin_demo.__main__ import main
from tocsin_demo.stack import ports

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("demo")]

COMMAND = (sys.executable, "-m", "tocsin_demo")
SOON = 30.0
"""Seconds for steps that take two or three on an idle machine."""
END = 10.0
"""Seconds from a signal to the end."""


class Demo:
    """A running demo whose output goes to a pipe. `lines`: its output so far."""

    def __init__(self, place: Path, *arguments: str, **environment: str) -> None:
        self.lines: list[str] = []
        self.place = place
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(place), **environment},
            start_new_session=True,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, pattern: str, since: int = 0) -> re.Match[str]:
        """Wait for a line after the first `since`."""
        return seen(lambda: re.search(pattern, "\n".join(self.lines[since:])), f"{pattern!r}\n{self.text}", SOON)

    def inbox(self) -> Any:
        """What the inbox has received."""
        return json.loads(self.get(f"{self.where('Inbox')}control/state"))

    def family(self) -> list[psutil.Process]:
        """Wait for the first screen; returns the process and all that it has started."""
        self.until("leaves nothing behind")
        whole = psutil.Process(self._process.pid)
        return [whole, *whole.children(recursive=True)]

    def where(self, name: str) -> str:
        """The address or file that the screen shows for something."""
        found = re.search(rf"^  {name} +((?:http:/)?/\S+)", self.text, re.MULTILINE)
        assert found is not None, self.text
        return found[1]

    def get(self, url: str) -> str:
        with urllib.request.urlopen(url, timeout=SOON) as response:
            text: str = response.read().decode()
        return text

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, within: float = END) -> int:
        """Wait for the end; returns the exit status."""
        status = self._process.wait(within)
        self._reader.join(within)
        return status

    def close(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END)
        self._process.kill()
        self.ended()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))


def gone(family: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


@contextmanager
def place() -> Iterator[Path]:
    """A directory for temporary files: not pytest's, whose path is too long for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="demo-"))
    directory.chmod(0o755)  # as root, the database runs as another user
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Demo]:
    with place() as directory:
        demo = Demo(directory, *arguments, **environment)
        try:
            yield demo
        finally:
            demo.close()


@contextmanager
def taken(*wanted: int) -> Iterator[None]:
    """Listen on these ports, unless another program does."""
    listeners = [socket.socket() for _ in wanted]
    try:
        for listener, port in zip(listeners, wanted, strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                listener.bind((ports.HOST, port))
                listener.listen()
        yield
    finally:
        for listener in listeners:
            listener.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """One demo for several tests, on a machine whose usual ports are in use."""
    with taken(8627, 8925), running() as started:
        started.family()
        yield started


# Output


def test_every_place_on_the_screen_exists(demo: Demo) -> None:
    assert "<title>Inbox</title>" in demo.get(demo.where("Inbox"))
    assert "<title>Tocsin</title>" in demo.get(demo.where("Tocsin"))
    assert "tocsin_alert_up" in demo.get(demo.where("Gauges"))
    assert "relation: demo.organization_alert" in Path(demo.where("Settings")).read_text(encoding="utf-8")
    log = Path(demo.where("Log"))
    seen(lambda: "event=running" in log.read_text(encoding="utf-8"), "the log of a start, a moment after the screen")
    for program, name in (("prometheus", "Prometheus"), ("prometheus-alertmanager", "Alertmanager")):
        if shutil.which(program):
            seen(partial(_answers, demo, f"{demo.where(name)}-/ready"), f"{name} is ready")


def _answers(demo: Demo, url: str) -> bool:
    with suppress(OSError):
        return bool(demo.get(url))
    return False


def test_listens_on_free_loopback_ports(demo: Demo) -> None:
    assert int(demo.where("Tocsin").rstrip("/").rpartition(":")[2]) > 8627
    assert int(demo.where("Inbox").rstrip("/").rpartition(":")[2]) > 8925
    listening = set[str]()
    for process in demo.family():
        with suppress(psutil.NoSuchProcess):  # the database ends some meanwhile
            found = process.net_connections("inet")
            listening |= {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN}
    assert listening == {ports.HOST}


def test_demos_that_start_together_use_different_ports() -> None:
    """Alertmanager and Tocsin listen only a while after their port was chosen."""
    choose = "from tocsin_demo.stack.ports import free; print(free(9093), flush=True); input()"
    with ExitStack() as stack:
        demos = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", choose], stdin=PIPE, stdout=PIPE, text=True))
            for _ in range(3)
        ]
        chosen = {demo.stdout.readline() for demo in demos if demo.stdout}
        for demo in demos:
            demo.communicate("\n")
    assert len(chosen) == 3


def test_spike_fires_and_resolves_with_messages(demo: Demo) -> None:
    """Of the first spike, which is over after fifteen seconds. So only what lasts is read: lines and messages."""
    for kind in ("fired", "resolved"):
        demo.until(rf"{kind} +deployment_spike  organization=C .* = \d+  ")

    def messages() -> list[tuple[str, str]]:
        return [
            (notification["workflow"], notification["payload"]["title"])
            for notification in demo.inbox()["notifications"]
            if notification["subscriber"] == "team-c"
        ]

    assert seen(lambda: len(messages()) >= 2 and messages()[:2], "both messages") == [
        ("deployment-spike", "Organization C: deployment spike"),
        ("deployment-calm", "Organization C: back to normal"),
    ]
    audited = [each["body"]["status"] for each in demo.inbox()["webhooks"] if each["name"] == "audit"]
    assert {"fired", "resolved"} <= set(audited)
    assert not {"\x1b", "\r"} & set(demo.text)
    assert demo.inbox()["counters"]["doubles"] == 0


def test_changed_rule_fires_at_once(demo: Demo) -> None:
    """With a window of a day the rows stay, so that the gauge can be read at leisure."""
    known = len(demo.lines)
    rules = "UPDATE demo.settings SET span = '1 day'", "UPDATE demo.organizations SET threshold = 0"
    for rule in rules:
        subprocess.run([demo.where("Database"), "-qc", rule], check=True)
    demo.until(r"fired +deployment_spike", since=known)
    gauge = r'^organization_alert\{organization="C",severity="warning",owner="team-c"\} \d+'
    seen(lambda: re.search(gauge, demo.get(demo.where("Gauges")), re.MULTILINE), "the gauge")


def test_messages_wait_for_the_inbox_and_arrive(demo: Demo) -> None:
    known = len(demo.lines)
    order(demo, {"faults": [{"kind": "status", "status": 500}]})
    demo.until(r"waits: .*audit.*server error", since=known)
    order(demo, {"faults": []})
    demo.until(r"arrived +audit: \d+ messages? that had to wait", since=known)
    dead = json.loads(demo.get(f"{demo.where('Tocsin')}api/v1/dead-letters"))
    assert dead["notifications"] == []


def order(demo: Demo, orders: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    url = f"{demo.where('Inbox')}control/faults"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(orders).encode(), headers), timeout=SOON):
        pass


def test_killed_tocsin_comes_back(demo: Demo) -> None:
    pid = int(demo.until(r"kill -9 (\d+)")[1])
    os.kill(pid, signal.SIGKILL)
    demo.until("Tocsin was ended by SIGKILL; starting it again")
    assert int(demo.until(r"Tocsin is back as process (\d+), and goes on where it was")[1]) != pid
    assert "tocsin_alert_up" in demo.get(demo.where("Gauges"))


@pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("prometheus-alertmanager")), reason="Prometheus is not installed"
)
def test_alertmanager_notifies_the_inbox(demo: Demo) -> None:
    def found() -> list[str]:
        alerts = [
            alert
            for each in demo.inbox()["webhooks"]
            if each["name"] == "alertmanager"
            for alert in each["body"]["alerts"]
        ]
        return [
            alert["annotations"]["summary"] for alert in alerts if alert["labels"]["alertname"] == "DeploymentSpike"
        ]

    assert re.search(r"Organization [ABCD] has \d+ deployments", seen(found, "an alert of Alertmanager", 2 * SOON)[-1])


# How it ends


def test_killed_demo_leaves_nothing(demo: Demo) -> None:
    """The last one of the tests that share a demo."""
    family = demo.family()
    demo.signal(signal.SIGKILL)
    seen(lambda: gone(family), "every process has ended", END)
    seen(lambda: not list(demo.place.iterdir()), "every file is gone", END)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_demo_and_its_processes(number: signal.Signals) -> None:
    with running("--no-prometheus") as demo:
        family = demo.family()
        assert len(family) > 4
        demo.signal(number)
        assert demo.ended() == 0
        assert "nothing is left behind" in demo.lines[-1]
        assert gone(family)
        assert list(demo.place.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_start_leaves_nothing(number: signal.Signals) -> None:
    with running("--no-prometheus") as demo:
        seen(lambda: list(demo.place.glob("*/data/base")), "initdb is running")
        whole = psutil.Process(demo._process.pid)
        family = [whole, *whole.children(recursive=True)]
        demo.signal(number)
        assert demo.ended() in (0, -signal.SIGKILL)
        assert "Traceback" not in demo.text
        seen(lambda: gone(family), "every process has ended", END)
        seen(lambda: not list(demo.place.iterdir()), "every file is gone", END)


def test_ends_quietly_when_its_reader_is_gone() -> None:
    with place() as directory:
        command = f"{sys.executable} -m tocsin_demo --no-prometheus --seconds 20 | head -n 3"
        environment = {**os.environ, "TMPDIR": str(directory)}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True, timeout=90
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert list(directory.iterdir()) == []


# What goes wrong


def test_tocsin_that_fails_to_start_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tocsin.py").write_text("import sys; sys.exit('out of order')")
    with running("--no-prometheus", PYTHONPATH=str(tmp_path)) as demo:
        assert demo.ended(SOON) == 1
        assert demo.lines == ["tocsin-demo: Tocsin ended with status 1. Its last output:", "  out of order"]
        assert list(demo.place.iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "nan", "soon"])
def test_impossible_time_is_refused(seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"--seconds={seconds}"])
    assert ended.value.code == 2
