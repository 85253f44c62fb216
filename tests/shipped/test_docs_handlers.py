"""The handlers on the page about them run with the configuration beside them, and do what it says; only what they call
is made up."""

import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from support.messages import message
from support.sending import Build, closing, sent
from tocsin.app.build import make_channel
from tocsin.channels.base import Delivered, Message, Rejected, Result, Retry
from tocsin.config import load
from tocsin.errors import Reason

PAGE = (Path(__file__).parents[2] / "docs" / "channels" / "python.md").read_text(encoding="utf-8")
CONFIGURATIONS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
HANDLERS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CALLED = """
import json
from pathlib import Path


def note(*what):
    with Path(__file__).with_name("calls").open("a") as calls:
        print(json.dumps(what), file=calls)


def open_ticket(summary, key):
    note(summary, key)
    return 17


class Answer:
    busy = False


async def call(room, token, key):
    note(room, token, key)
    return Answer
"""
"""What the handlers call and never define."""


@pytest.fixture
async def build(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Build]:
    """Makes channels whose handlers are found anew by each test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    async with closing(make_channel) as build:
        yield build
    del sys.modules["pager"]


def channel(build: Build, directory: Path, number: int, called: str = CALLED) -> Any:
    """The channel of a configuration on the page, with the handler that follows it."""
    (directory / "pager.py").write_text(HANDLERS[number] + called)
    written = yaml.safe_load(CONFIGURATIONS[number])
    written.setdefault("alerts", {"late_orders": {"source": "shop", "relation": "late_orders", "notify": ["pager"]}})
    written["sources"] = {"shop": {"type": "postgres", "host": "db", "user": "tocsin"}}
    written["channels"]["pager"]["path"] = str(directory)
    file = directory / "tocsin.yaml"
    file.write_text(yaml.safe_dump(written))
    return build(load(file, {"PAGER_TOKEN": "t0ken-of-the-pager"}).channels["pager"])


def calls(directory: Path) -> list[list[str]]:
    """What the handler has called, and with what."""
    return [json.loads(line) for line in (directory / "calls").read_text().splitlines()]


def late(**labels: str) -> Message:
    """A notification of the alert on the page."""
    one = message(alert="late_orders")
    return replace(one, envelope={**one.envelope, "labels": labels or one.envelope["labels"]})


def test_each_handler_stands_below_its_configuration() -> None:
    assert [text.startswith("channels:\n  pager:\n    type: python") for text in CONFIGURATIONS[:2]] == [True, True]
    assert len(HANDLERS) == 2


async def test_the_first_handler_opens_a_ticket_under_the_id_and_notes_its_number(build: Build, tmp_path: Path) -> None:
    made, what = channel(build, tmp_path, 0), late()
    assert await sent(made, what) == Delivered("ticket 17")
    assert calls(tmp_path) == [["Order 17 of Ann is late", what.id]]


async def test_the_second_handler_calls_with_the_arguments_of_the_alert(build: Build, tmp_path: Path) -> None:
    made, what = channel(build, tmp_path, 1), late()
    with capture_logs() as logged:
        assert await sent(made, what) == Delivered()
    assert calls(tmp_path) == [["deliveries", "t0ken-of-the-pager", what.id]]
    assert [(line["event"], line["attempts"], line["notification"]) for line in logged] == [("paged", 0, what.id)]


@pytest.mark.parametrize(
    ("labels", "called", "result"),
    [
        ({"customer": "test"}, CALLED, Rejected(Reason.REJECTED, "test customers have no pager")),
        (
            {"customer": "Ann"},
            CALLED.replace("busy = False", "busy = True"),
            Retry(Reason.NOT_PROCESSED, "the pager is busy", after=30, free=True),
        ),
    ],
    ids=["test customer", "busy"],
)
async def test_the_second_handler_refuses_and_puts_off_as_it_says(
    build: Build, tmp_path: Path, labels: Mapping[str, str], called: str, result: Result
) -> None:
    assert await sent(channel(build, tmp_path, 1, called), late(**labels)) == result
