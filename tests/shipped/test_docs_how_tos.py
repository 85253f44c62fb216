"""The configurations of the how-tos send what the pages say: run by `tocsin test`, without servers. The commands about
silences work in their order."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.documented import written_to
from support.pages import DOCS, blocks
from support.tocsin import command
from tocsin.cli import main
from tocsin.ledger.sqlite import open_ledger

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


CONFIG = """
sources: {shop: {type: postgres, host: db, user: tocsin}}
channels: {team: {type: webhook, url: "http://127.0.0.1:9/"}}
alerts: {late_orders: {source: shop, relation: late_orders, labels: [customer], notify: [team]}}
"""


async def test_commands_about_silences_work_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "tocsin.yaml").write_text(CONFIG)
    page = (DOCS / "silences.md").read_text(encoding="utf-8")
    written = re.findall(r"^tocsin (silence .*)$", page.partition("```\n")[2].partition("```")[0], re.MULTILINE)
    assert [line.split()[1] for line in written] == ["preview", "add", "list", "show", "end"]
    ledger = open_ledger(tmp_path / "tocsin.db")  # as `tocsin run` makes it
    await ledger.close()
    made = ""
    for line in written:
        words = [made if re.fullmatch(r"[0-9a-f]{12}", word) else word for word in shlex.split(line, comments=True)]
        status, printed, errors = await command(tmp_path, *words)
        assert status == 0, (line, errors)
        made = made or next(iter(re.findall(r"\b[0-9a-f]{12}", printed)), "")
    assert made
