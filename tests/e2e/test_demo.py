"""`make demo`, as a person runs it: what it shows, and that it goes without a trace however it ends."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from support.waiting import seen
from tocsin_demo.stack import ports
from tocsin_demo.stack.errors import DemoError

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("demo")]

COMMAND = (sys.executable, "-m", "tocsin_demo")
SOON = 30.0
"""Seconds for what takes two or three on a machine that has nothing else to do."""
END = 10.0
"""Seconds from a signal to the end: a few, and time for a busy machine."""


class Demo:
    """A running demo whose output goes to a pipe. `lines`: what it has said so far."""

    def __init__(self, place: Path, *arguments: str) -> None:
        self.lines: list[str] = []
        self.place = place
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(place)},
            start_new_session=True,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, pattern: str, within: float = SOON) -> re.Match[str]:
        """Wait for a line, and return what was found."""
        return seen(lambda: re.search(pattern, self.text), f"{pattern!r} in:\n{self.text}", within)

    def shown(self) -> Self:
        """Wait for the whole first screen."""
        self.until("leaves nothing behind")
        return self

    def where(self, name: str) -> str:
        """The address or file that the screen gives for something."""
        found = re.search(rf"^  {name} +((?:http:/)?/\S+)", self.text, re.MULTILINE)
        assert found is not None, self.text
        return found[1]

    def get(self, url: str) -> str:
        with urllib.request.urlopen(url, timeout=SOON) as response:
            text: str = response.read().decode()
        return text

    def family(self) -> list[psutil.Process]:
        """The process and all that it has started."""
        whole = psutil.Process(self._process.pid)
        return [whole, *whole.children(recursive=True)]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self, within: float = END) -> int:
        """Wait for the end, and return the exit status."""
        status = self._process.wait(within)
        self._reader.join(within)
        return status

    def close(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END)
        self._process.kill()
        self._process.wait()
        self._reader.join()
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
    """A directory for temporary files: not pytest's, whose names are too long for a database's socket."""
    directory = Path(tempfile.mkdtemp(prefix="demo-"))
    directory.chmod(0o755)  # as root, the database runs as somebody else
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def running(*arguments: str) -> Iterator[Demo]:
    with place() as directory:
        demo = Demo(directory, *arguments)
        try:
            yield demo
        finally:
            demo.close()


@contextmanager
def taken(*wanted: int) -> Iterator[None]:
    """Listen on these ports, unless somebody already does."""
    listening = []
    for port in wanted:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            listener.bind((ports.HOST, port))
            listener.listen()
        listening.append(listener)
    try:
        yield
    finally:
        for listener in listening:
            listener.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """One that goes on over several tests, on a machine where the usual ports are taken."""
    with taken(8627, 8925), running() as started:
        yield started.shown()


# What it shows


def test_what_the_first_screen_names_is_there(demo: Demo) -> None:
    assert "<title>Inbox</title>" in demo.get(demo.where("Inbox"))
    assert "<title>Tocsin</title>" in demo.get(demo.where("Tocsin"))
    assert "tocsin_alert_up" in demo.get(demo.where("Gauges"))
    assert "relation: demo.organization_alert" in Path(demo.where("Settings")).read_text(encoding="utf-8")
    assert "event=running" in Path(demo.where("Log")).read_text(encoding="utf-8")
    for program, name in (("prometheus", "Prometheus"), ("prometheus-alertmanager", "Alertmanager")):
        if shutil.which(program):
            seen(partial(_answers, f"{demo.where(name)}-/ready"), f"{name} is ready")


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=SOON) as response:
        return bool(response.status == 200)
    return False


def test_taken_ports_are_stepped_over(demo: Demo) -> None:
    assert int(demo.where("Tocsin").rstrip("/").rpartition(":")[2]) > 8627
    assert int(demo.where("Inbox").rstrip("/").rpartition(":")[2]) > 8925


def test_everything_listens_on_this_machine_only(demo: Demo) -> None:
    listening = {
        connection.laddr.ip
        for process in demo.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {ports.HOST}


def test_a_spike_is_told_and_is_a_gauge_while_it_lasts(demo: Demo) -> None:
    demo.until(r"fired +deployment_spike  organization=C .* = 1\d  → team-c, audit")
    assert re.search(
        r'^organization_alert\{organization="C",severity="warning",owner="team-c"\} 1\d',
        demo.get(demo.where("Gauges")),
        re.MULTILINE,
    )
    # From the first screen: the spike is over fifteen seconds after the start of the events.
    demo.until(r"resolved +deployment_spike  organization=C .* → team-c, audit", within=17)
    assert 'organization="C"' not in demo.get(demo.where("Gauges"))


def test_people_get_a_message_of_the_spike_and_one_of_its_end(demo: Demo) -> None:
    demo.until(r"resolved +deployment_spike  organization=C .* → team-c, audit")
    state = json.loads(demo.get(f"{demo.where('Inbox')}control/state"))
    messages = [
        (notification["workflow"], notification["payload"]["title"])
        for notification in state["notifications"]
        if notification["subscriber"] == "team-c"
    ]
    assert messages[:2] == [
        ("deployment-spike", "Organization C: deployment spike"),
        ("deployment-calm", "Organization C: back to normal"),
    ]
    audited = [delivery["body"]["status"] for delivery in state["webhooks"] if delivery["name"] == "audit"]
    assert {"fired", "resolved"} <= set(audited)
    assert state["counters"]["doubles"] == 0


def test_a_rule_changed_in_the_database_fires_at_once(demo: Demo) -> None:
    def change() -> int:
        # Each time for a while: which organization has deployed just now is chance.
        return subprocess.run(
            [demo.where("Database"), "-qc", "UPDATE demo.organizations SET threshold = 0"], check=True
        ).returncode

    known = len(demo.lines)
    change()
    seen(lambda: re.search(r"fired +deployment_spike", "\n".join(demo.lines[known:])), "fired after the change")


def test_what_nobody_takes_waits_and_arrives_later(demo: Demo) -> None:
    order(demo, {"faults": [{"kind": "status", "status": 500}]})
    demo.until(r"waits: .*audit.*server error")
    order(demo, {"faults": []})
    demo.until(r"arrived +audit: \d+ messages? that had to wait")
    dead = json.loads(demo.get(f"{demo.where('Tocsin')}api/v1/dead-letters"))
    assert dead["notifications"] == []


def order(demo: Demo, orders: dict[str, Any]) -> None:
    request = urllib.request.Request(
        f"{demo.where('Inbox')}control/faults",
        data=json.dumps(orders).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=SOON):
        pass


def test_a_killed_tocsin_comes_back(demo: Demo) -> None:
    pid = int(demo.until(r"kill -9 (\d+)")[1])
    os.kill(pid, signal.SIGKILL)
    demo.until("Tocsin was ended by SIGKILL; starting it again")
    back = demo.until(r"Tocsin is back as process (\d+)")
    assert int(back[1]) != pid
    assert "tocsin_alert_up" in demo.get(demo.where("Gauges"))


@pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("prometheus-alertmanager")), reason="Prometheus is not installed"
)
def test_alertmanager_tells_the_inbox_as_well(demo: Demo) -> None:
    def look() -> list[str]:
        with urllib.request.urlopen(f"{demo.where('Inbox')}page/stream", timeout=SOON) as stream:
            page = json.loads(stream.readline().removeprefix(b"data: "))
        cards = [card for column in page["columns"] if column["name"] == "alertmanager" for card in column["cards"]]
        return [card["body"] for card in cards if card["title"] == "DeploymentSpike"]

    assert re.search(r"Organization [ABCD] has \d+ deployments", seen(look, "a card of Alertmanager's")[-1])


def test_it_tells_all_this_without_a_trace_of_colour_in_a_pipe(demo: Demo) -> None:
    assert "\x1b" not in demo.text
    assert "\r" not in demo.text


# How it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_without_a_trace(number: signal.Signals) -> None:
    with running("--no-prometheus") as demo:
        family = demo.shown().family()
        assert len(family) > 4
        demo.signal(number)
        assert demo.ended() == 0
        assert "nothing is left behind" in demo.lines[-1]
        assert gone(family)
        assert list(demo.place.iterdir()) == []


def test_killed_it_leaves_nothing_running_and_no_file() -> None:
    with running() as demo:
        family = demo.shown().family()
        demo.signal(signal.SIGKILL)
        seen(lambda: gone(family), "every process has ended", END)
        seen(lambda: not list(demo.place.iterdir()), "every file has gone", END)


def test_interrupted_while_it_starts_it_leaves_nothing() -> None:
    with running("--no-prometheus") as demo:
        seen(lambda: list(demo.place.iterdir()), "the first file")
        family = demo.family()
        demo.signal(signal.SIGINT)
        assert demo.ended() in (0, 130)
        assert "Traceback" not in demo.text
        seen(lambda: gone(family), "every process has ended", END)
        seen(lambda: not list(demo.place.iterdir()), "every file has gone", END)


def test_it_ends_by_itself_after_the_time_that_was_asked_for() -> None:
    with running("--no-prometheus", "--seconds", "0.5") as demo:
        assert demo.ended(SOON) == 0
        assert "Everything ends after 0.5 s" in demo.text
        assert list(demo.place.iterdir()) == []


def test_it_ends_quietly_when_nobody_reads_any_more() -> None:
    with place() as directory:
        command = f"{sys.executable} -m tocsin_demo --no-prometheus | head -n 3"
        environment = {**os.environ, "TMPDIR": str(directory)}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True, timeout=90
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert list(directory.iterdir()) == []


def without_size(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in ("COLUMNS", "LINES")}


def test_it_ends_with_its_terminal_and_fits_a_narrow_one() -> None:
    with place() as directory:
        terminal, inside = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 60))
        process = subprocess.Popen(
            [*COMMAND, "--no-prometheus"],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            # Without the width that somebody may have set for other programs: the terminal's own counts.
            env={**without_size(os.environ), "TMPDIR": str(directory), "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - nothing less takes a terminal
        )
        try:
            os.close(inside)
            said = read_until(terminal, "leaves nothing behind")
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            os.close(terminal)
            process.wait(END)
        finally:
            process.kill()
            process.wait()
        assert gone(family)
        assert list(directory.iterdir()) == []
    assert "starting PostgreSQL ..." in said
    assert "\x1b[1m" in said
    prose = [line for line in without_codes(said).splitlines() if not line.startswith("    ")]  # else to be copied
    assert [line for line in prose if len(line) > 60] == []


def read_until(terminal: int, words: str) -> str:
    """What a terminal shows until it has shown these words, however they were broken into lines."""
    said = b""
    deadline = time.monotonic() + SOON
    while words not in " ".join(without_codes(said.decode(errors="replace")).split()):
        left = deadline - time.monotonic()
        assert left > 0, f"{words!r} is not in {said!r}"
        if select.select([terminal], [], [], left)[0]:
            said += os.read(terminal, 4096)
    return said.decode()


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", text)


# What goes wrong


def test_a_tocsin_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "tocsin.py").write_text("import sys; sys.exit('out of order')")
    with place() as directory:
        environment = {**os.environ, "TMPDIR": str(directory), "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [*COMMAND, "--no-prometheus"], env=environment, capture_output=True, text=True, timeout=60
        )
        assert list(directory.iterdir()) == []
    assert done.returncode == 1
    assert done.stderr == "tocsin-demo: Tocsin ended with status 1. The last that it said:\n  out of order\n"


def test_that_no_port_is_free_is_said_with_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "ATTEMPTS", 1)
    with socket.socket() as listener:
        listener.bind((ports.HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(DemoError, match=f"no port is free from {port} to {port}; end what listens there"):
            ports.free(port)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_an_impossible_time_is_refused(seconds: str) -> None:
    done = subprocess.run([*COMMAND, f"--seconds={seconds}"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("tocsin-demo: error: argument --seconds: ")


def test_the_help_has_examples_and_every_exit_status() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, timeout=30)
    assert "examples:\n  tocsin-demo " in done.stdout
    assert "exit status: 0 ended by Ctrl-C" in done.stdout
