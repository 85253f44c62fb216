"""The configurations of the how-tos send what the pages say: run by `tocsin test`, without servers."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from support.documented import written_to
from support.pages import blocks
from tocsin.cli import main

ANN = {"order_id": 17, "customer": "Ann & <Co>", "minutes": 15, "severity": "page", "owner": "ann"}
LATE = "Order 17 of Ann & <Co> is late"
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "slack": ("slack", {"body": {"text": "🔴 Order 17 of Ann &amp; &lt;Co&gt; is late"}}),
    "teams": ("teams", {"body": {"type": "message"}}),
    "pagerduty": ("pagerduty", {"body": {"event_action": "trigger", "payload": {"summary": LATE}}}),
    "novu": ("people", {"workflow": "late-order", "to": ["ann"]}),
    "pgbouncer": ("people", {}),
    "alertmanager": ("alertmanager", {}),
}
"""Page -> the channel, and what it sends of a row that fires."""


@pytest.mark.parametrize("page", REQUESTS)
def test_how_to_sends_what_it_says(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    channel, request = REQUESTS[page]
    text = blocks(f"how-to/{page}.md", "yaml")[-1]
    file = written_to(tmp_path, text)
    fires = {"at": "0s", "insert": {"late_orders": [ANN]}}
    is_sent = {"at": "2s", "exp_notifications": {channel: [{"kind": "fired", "request": request}]}}
    tests = {"config": file.name, "tests": [{"name": page, "timeline": [fires, is_sent]}]}
    (tmp_path / "how_to_test.yaml").write_text(yaml.safe_dump(tests, allow_unicode=True))
    status = main(["test", str(tmp_path / "how_to_test.yaml")])
    assert status == 0, capsys.readouterr().out
