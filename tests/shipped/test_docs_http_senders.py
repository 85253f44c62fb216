"""The senders on the page of the `http` source: its configuration takes their requests, and refuses others as it
says."""

import hmac
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.pages import DOCS, blocks
from support.tocsin import TocsinProcess, running
from support.waiting import until

pytestmark = pytest.mark.e2e

PAGE = "sources/http.md"
SECRET = "a secret that both sides have"
WORKFLOW = {
    "action": "completed",
    "workflow_run": {"id": 30433642, "name": "Build", "conclusion": "failure"},
    "repository": {"full_name": "octo-org/octo-repo"},
}
CHARGE = {"id": "evt_1", "type": "charge.succeeded", "data": {"object": {"amount": 100_001, "customer": "cus_1"}}}


def mac(text: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), text, "sha256").hexdigest()


async def from_github(tocsin: TocsinProcess, body: bytes, secret: str = SECRET) -> tuple[int, str]:
    headers = {"X_GitHub_Delivery": "1", "X_Hub_Signature_256": f"sha256={mac(body, secret)}"}
    return await tocsin.post("/api/v1/events/failed_workflow", body, **headers)


async def from_dbt(tocsin: TocsinProcess, status: str, event: str) -> tuple[int, str]:
    data = {"jobName": "Daily", "runId": "218726483", "runStatus": status}
    body = json.dumps({"eventId": event, "eventType": "job.run.completed", "data": data}).encode()
    return await tocsin.post("/api/v1/events/failed_dbt_job", body, Authorization=mac(body))


async def from_stripe(tocsin: TocsinProcess) -> tuple[int, str]:
    body, now = json.dumps(CHARGE).encode(), round(time.time())
    signature = f"t={now},v1=00,v1={mac(f'{now}.'.encode() + body)}"
    return await tocsin.post("/api/v1/events/large_payment", body, Stripe_Signature=signature)


async def from_slack(tocsin: TocsinProcess, body: bytes, type_: str) -> tuple[int, str]:
    now = round(time.time())
    headers = {"X_Slack_Signature": f"v0={mac(f'v0:{now}:'.encode() + body)}", "X_Slack_Request_Timestamp": str(now)}
    return await tocsin.post("/api/v1/events/deploy_command", body, Content_Type=type_, **headers)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """The configuration of the page, with one secret for all senders."""
    written: dict[str, Any] = yaml.safe_load(blocks(PAGE, "yaml")[-1])
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    for source in written["sources"].values():
        source["signing_secret_file"] = str(secret)
    return {**written, "web": {"listen": "127.0.0.1:0"}, "ledger": {"path": "tocsin.db"}}


async def test_documented_senders_are_accepted(tmp_path: Path, config: dict[str, Any]) -> None:
    """Nested fields are labels, values and keys. A repeat is notified once."""
    async with running(tmp_path, config) as tocsin:
        await tocsin.until_ready()
        for _ in range(2):
            assert await from_github(tocsin, json.dumps(WORKFLOW).encode()) == (202, '{"events":1}')
            assert await from_stripe(tocsin) == (202, '{"events":1}')
        for status, event in (("Success", "wev_1"), ("Errored", "wev_2"), ("Errored", "wev_3")):
            assert (await from_dbt(tocsin, status, event))[0] == 202
        challenge = b'{"type": "url_verification", "challenge": "3eZ"}'
        assert await from_slack(tocsin, challenge, "application/json") == (200, '{"challenge":"3eZ"}')
        command = b"command=%2Fdeploy&text=web+now&user_name=ann"
        assert await from_slack(tocsin, command, "application/x-www-form-urlencoded") == (200, "")
        await until(lambda: len(tocsin.output) == 4, "one notification of each sender")
        assert await tocsin.stop() == 0
    shown = "\n".join(sorted(tocsin.output))
    for part in ("octo-org/octo-repo", "job_name=Daily", "value=100001", "web now"):
        assert part in shown
    assert not tocsin.logged("lacks a column")


async def test_wrong_secret_is_refused_as_documented(tmp_path: Path, config: dict[str, Any]) -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    [(answer, line)] = re.findall(r"^```\n(\{.*\})\n(.*)\n```", text, re.MULTILINE)
    async with running(tmp_path, config) as tocsin:
        await tocsin.until_ready()
        assert await from_github(tocsin, b"{}", "another secret of the sender") == (401, answer)
        logged = await tocsin.until_logged("request refused")
        assert logged.endswith(line)
        assert await tocsin.stop() == 0
    assert SECRET not in "".join([*tocsin.log, *tocsin.output])
