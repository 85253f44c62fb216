"""Known faults of similar programs, checked in running processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.receiver import Receiver
from support.tocsin import running

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-some-length"
LEVELS = ("debug", "info", "warning", "error")
LOGGING = """
import logging, sys
import structlog
from tocsin.app.logs import configure
from tocsin.config.sections import LogSettings

level, *levels = sys.argv[1:]
for _ in range(2):
    configure(LogSettings(level=level, format="json"))
for each in levels:
    getattr(structlog.get_logger(), each)("ours")
    getattr(logging.getLogger("a.library"), each)("theirs")
"""


def config(directory: Path, **channels: Any) -> dict[str, Any]:
    """One alert on posted events that notifies these channels."""
    return {
        "ledger": {"path": str(directory / "tocsin.db")},
        "web": {"listen": "127.0.0.1:0"},
        "sources": {"posted": {"type": "http", "token": TOKEN}},
        "channels": channels,
        "alerts": {"orders": {"source": "posted", "notify": [*channels]}},
    }


async def test_equal_webhooks_are_all_called(tmp_path: Path) -> None:
    """Webhooks with the same address, method and interval."""
    async with Receiver() as receiver:
        alike = {"type": "webhook", "url": receiver.url, "interval": "1s"}
        async with running(tmp_path, config(tmp_path, first=alike, second=alike)) as tocsin:
            await tocsin.until_ready()
            for number in range(3):
                body = json.dumps({"id": number}).encode()
                status, _ = await tocsin.post("/api/v1/events/orders", body, Authorization=f"Bearer {TOKEN}")
                assert status == 202

            for name in ("first", "second"):
                await tocsin.until_metric("tocsin_channel_delivered_total", 3, channel=name)
    received = [one["row"]["id"] for request in receiver.requests for one in request.json.get("merged", [request.json])]
    assert sorted(received) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("level", ["debug", "error"])
def test_log_lines_are_written_once_after_reload(level: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOGGING, level, *LEVELS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    logged = LEVELS[LEVELS.index(level) :]
    assert [(line["level"], line["event"]) for line in lines] == [
        (at, logger) for at in logged for logger in ("ours", "theirs")
    ]
