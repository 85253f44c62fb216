"""What commands and the log write to a terminal: colours, numbers, the beginning of `tocsin tail`."""

import io
import json
import logging
import sys
from typing import Any

import pytest
import structlog

from tocsin.app import logs
from tocsin.cli import main
from tocsin.cli.running import Running
from tocsin.cli.tables import cell
from tocsin.config.sections import LogSettings
from tocsin.terminal import has_colours


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


FIRED = {
    "kind": "fired",
    "at": "2026-01-02T03:04:05.000Z",
    "alert": "late",
    "labels": {"customer": "Ann"},
    "value": 7500.0,
}


@pytest.fixture
def colourful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def everything(monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal gets: a table, a line of `tocsin tail`, and a line of the log."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    answers = {"firing": json.dumps({"firing": [{**FIRED, "phase": "firing", "started_at": ""}], "truncated": []})}
    stream = f"data: {json.dumps(FIRED)}\n"

    def opened(_: Running, path: str) -> Any:
        return io.BytesIO(answers.get(path.rpartition("/")[2].partition("?")[0], stream).encode())

    monkeypatch.setattr(Running, "get", opened)
    main(["alerts", "--url", "http://h"])
    main(["tail", "--url", "http://h"])
    root, configuration = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    try:
        logs.configure(LogSettings())
        structlog.get_logger("x").warning("a line", alert="late")
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.configure(**configuration)
    return terminal.getvalue()


@pytest.mark.usefixtures("colourful")
def test_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in everything(monkeypatch).splitlines() if "\x1b[3" in line]
    assert [any(word in line for line in lines) for word in ("fired", "a line")] == [True, True]


@pytest.mark.usefixtures("colourful")
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_refused_by_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """In tables, in `tocsin tail` and in the log."""
    monkeypatch.setenv(name, value)
    text = everything(monkeypatch)
    assert "a line" in text
    assert "\x1b[3" not in text
    if name == "TERM":
        assert "\x1b" not in text


@pytest.mark.usefixtures("colourful")
def test_pipe_gets_no_colours() -> None:
    assert not has_colours(io.StringIO())


def test_tail_says_where_it_begins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error: standard output has transitions only."""
    monkeypatch.setattr(Running, "get", lambda *_: io.BytesIO(f"data: {json.dumps(FIRED)}\n".encode()))
    main(["tail", "--url", "http://h"])
    written = capsys.readouterr()
    assert written.err.splitlines()[0] == "the latest transitions first (up to 200), then each as it happens"
    assert written.out == "2026-01-02T03:04:05.000Z  fired     late  customer=Ann  = 7500\n"


NUMBERS = {
    7500.0: "7500",
    0.1 + 0.2: "0.3",
    -2.5: "-2.5",
    1234567.891: "1234567.891",
    1e-7: "1e-7",
    1e16: "10000000000000000",
    1e21: "1e+21",
    0.0: "0",
}


def test_numbers_are_written_as_on_the_page() -> None:
    """`test_web_page_rows.py` has the page's."""
    assert [cell(number) for number in NUMBERS] == list(NUMBERS.values())
    assert [cell(value) for value in (None, "NaN", 3, True, {"a": 1.5})] == ["", "NaN", "3", "true", '{"a":1.5}']
