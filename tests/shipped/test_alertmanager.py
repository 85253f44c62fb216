"""Alertmanager's configuration: who gets what, with and without Slack, and what a real one then sends."""

import json
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.alertmanager import ALERTMANAGER, AMTOOL, Alertmanager, alertmanager
from support.prometheus import run
from support.receiver import Receiver
from support.waiting import until

FOLDER = Path(__file__).parents[2] / "alertmanager"
PLAIN, SLACK = FOLDER / "alertmanager.yml", FOLDER / "alertmanager.slack.yml"
FILES = pytest.mark.parametrize("file", [PLAIN, SLACK], ids=lambda file: file.stem)
INBOX = "http://inbox:8925/webhook/alertmanager"
KEY_FILE = "/run/secrets/slack-webhook-url"

needs_amtool = pytest.mark.skipif(AMTOOL is None, reason="amtool is not on the PATH")
needs_alertmanager = pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")

ROUTES = [
    ("alertname=DeploymentSpike service=demo severity=critical organization=A owner=team-a", "on-call"),
    ("alertname=DeploymentSpike service=demo severity=warning organization=B owner=team-b", "owners"),
    ("alertname=DeploymentSpike service=demo severity=info organization=C", "owners"),
    ("alertname=AuctionAlert service=demo severity=warning rule=pizza item=x", "auction-house"),
    ("alertname=AuctionAlert service=demo severity=critical rule=pizza item=x", "on-call"),
    ("alertname=TocsinDown service=tocsin severity=critical", "operators-on-call"),
    ("alertname=TocsinSourceDown service=tocsin severity=critical alert=a", "operators-on-call"),
    ("alertname=TocsinDeadLetters service=tocsin severity=warning channel=people", "operators"),
    ("alertname=TargetDown service=stack severity=warning job=producer", "operators"),
    ("alertname=SomethingNew severity=warning", "inbox"),
    ("alertname=SomethingNew", "inbox"),
]


@needs_amtool
@FILES
async def test_the_configuration_is_valid(file: Path) -> None:
    status, said = await run(AMTOOL or "", "check-config", file)
    assert status == 0, said
    assert "SUCCESS" in said, said


@needs_amtool
@FILES
@pytest.mark.parametrize(("labels", "receiver"), ROUTES)
async def test_an_alert_goes_to_one_receiver(file: Path, labels: str, receiver: str) -> None:
    arguments = ("config", "routes", "test", f"--config.file={file}", f"--verify.receivers={receiver}")
    status, said = await run(AMTOOL or "", *arguments, *labels.split())
    assert status == 0, said


def test_every_receiver_is_used() -> None:
    assert {receiver["name"] for receiver in read(PLAIN)["receivers"]} == {receiver for _, receiver in ROUTES}


@FILES
def test_the_inbox_gets_everything_and_the_end_of_it(file: Path) -> None:
    for receiver in read(file)["receivers"]:
        assert receiver["webhook_configs"] == [{"url": INBOX, "send_resolved": True}], receiver["name"]


def test_without_slack_nothing_is_needed_from_outside() -> None:
    text = PLAIN.read_text(encoding="utf-8")
    assert "slack_configs" not in text
    assert "_file:" not in text


def test_the_two_files_differ_in_slack_alone() -> None:
    slack = read(SLACK)
    assert slack.pop("templates") == ["templates/*.tmpl"]
    for receiver in slack["receivers"]:
        (settings,) = receiver.pop("slack_configs")
        assert settings["api_url_file"] == KEY_FILE
        assert settings["send_resolved"]
    assert slack == read(PLAIN)


def test_no_key_is_written_down() -> None:
    for path in FOLDER.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"hooks\.slack\.com|api_url:|password|token", text), path


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


class Told:
    """What the inbox and Slack got."""

    def __init__(self, receiver: Receiver, server: Alertmanager) -> None:
        self.receiver = receiver
        self.server = server

    def at(self, path: str) -> list[Any]:
        return [request.json for request in self.receiver.requests if request.path == path]

    def messages(self) -> list[tuple[str, str, list[str]]]:
        """Those of the inbox: receiver, status, and the summaries of the alerts inside."""
        return [
            (each["receiver"], each["status"], sorted(alert["annotations"]["summary"] for alert in each["alerts"]))
            for each in self.at("/webhook/alertmanager")
        ]

    async def until(self, *messages: tuple[str, str, list[str]]) -> None:
        await until(lambda: all(each in self.messages() for each in messages), f"{messages}; {self.messages()}")

    def summaries(self) -> set[str]:
        return {summary for _, _, summaries in self.messages() for summary in summaries}


@asynccontextmanager
async def telling(folder: Path, file: Path) -> AsyncIterator[Told]:
    """An Alertmanager with a shipped file, whose receivers are one on this machine."""
    async with Receiver() as receiver:
        key = folder / "key"
        key.write_text(f"{receiver.url}/slack")
        text = file.read_text(encoding="utf-8").replace(INBOX, f"{receiver.url}/webhook/alertmanager")
        text = text.replace(KEY_FILE, str(key)).replace("group_interval: 5s", "group_interval: 1s")
        shutil.copytree(FOLDER / "templates", folder / "templates")
        (folder / file.name).write_text(text, encoding="utf-8")
        async with alertmanager(folder, folder / file.name) as server:
            yield Told(receiver, server)


def spike(organization: str, severity: str) -> Mapping[str, str]:
    return {
        "alertname": "DeploymentSpike",
        "organization": organization,
        "owner": f"team-{organization.lower()}",
        "service": "demo",
        "severity": severity,
    }


def own(alertname: str, severity: str, **labels: str) -> Mapping[str, str]:
    return {"alertname": alertname, "service": "tocsin", "severity": severity, **labels}


@needs_alertmanager
async def test_each_organization_is_a_message_of_its_own_and_so_is_its_end(tmp_path: Path) -> None:
    async with telling(tmp_path, PLAIN) as told:
        await told.server.tell(spike("A", "critical"), summary="spike in A")
        await told.until(("on-call", "firing", ["spike in A"]))
        await told.server.tell(spike("B", "warning"), summary="spike in B")
        await told.server.tell(spike("C", "warning"), summary="spike in C")
        await told.until(("owners", "firing", ["spike in B"]), ("owners", "firing", ["spike in C"]))
        await told.server.tell(spike("B", "warning"), summary="spike in B", over=True)
        await told.until(("owners", "resolved", ["spike in B"]))
        assert len(told.messages()) == 4
        assert told.at("/slack") == []


@needs_alertmanager
@pytest.mark.parametrize("worse", ["TocsinChannelPaused", "TocsinChannelRefusing"])
async def test_what_follows_from_something_worse_is_held_back(tmp_path: Path, worse: str) -> None:
    async with telling(tmp_path, PLAIN) as told:
        await told.server.tell(spike("A", "critical"), summary="A critical")
        await told.server.tell(own("TocsinSourceDown", "critical", alert="late"), summary="late down")
        await told.server.tell(own(worse, "critical", channel="people"), summary="people paused")
        await told.until(
            ("on-call", "firing", ["A critical"]),
            ("operators-on-call", "firing", ["late down"]),
            ("operators-on-call", "firing", ["people paused"]),
        )
        await told.server.tell(spike("A", "warning"), summary="A warning")
        await told.server.tell(own("TocsinSourceStalled", "warning", alert="late"), summary="late stalled")
        await told.server.tell(own("TocsinOutboxOld", "warning", channel="people"), summary="people old")
        # The same of others is told, and after it what is held back would have been.
        await told.server.tell(spike("B", "warning"), summary="B warning")
        await told.server.tell(own("TocsinSourceStalled", "warning", alert="early"), summary="early stalled")
        await told.server.tell(own("TocsinOutboxOld", "warning", channel="audit"), summary="audit old")
        await told.server.tell({"alertname": "AuctionAlert", "severity": "warning"}, summary="no organization")
        await until(
            lambda: {"B warning", "early stalled", "audit old", "no organization"} <= told.summaries(),
            "the alerts of others",
        )
        assert not {"A warning", "late stalled", "people old"} & told.summaries()


@needs_alertmanager
async def test_of_a_tocsin_that_is_down_nothing_else_is_told(tmp_path: Path) -> None:
    async with telling(tmp_path, PLAIN) as told:
        await told.server.tell(own("TocsinDown", "critical"), summary="down")
        await told.until(("operators-on-call", "firing", ["down"]))
        await told.server.tell(own("TocsinLedgerDown", "critical"), summary="ledger")
        await told.server.tell(own("TocsinDeadLetters", "warning", channel="people"), summary="dead")
        await told.server.tell({"alertname": "TargetDown", "service": "stack", "severity": "warning"}, summary="target")
        await told.until(("operators", "firing", ["target"]))
        assert told.summaries() == {"down", "target"}
        await told.server.tell(own("TocsinDown", "critical"), summary="down", over=True)
        await told.until(
            ("operators-on-call", "resolved", ["down"]),
            ("operators-on-call", "firing", ["ledger"]),
            ("operators", "firing", ["dead"]),
        )


@needs_alertmanager
async def test_slack_is_told_beside_the_inbox_and_the_inbox_without_slack(tmp_path: Path) -> None:
    async with telling(tmp_path, SLACK) as told:
        await told.server.tell(spike("A", "critical"), summary="spike in A")
        await told.until(("on-call", "firing", ["spike in A"]))
        await until(lambda: told.at("/slack"), "a message at Slack")
        (message,) = told.at("/slack")[0]["attachments"]
        assert message["title"] == "Critical: spike in A"
        assert "What it is." in message["text"]
        assert "Owner: team-a. Since" in message["text"]
        assert "<no value>" not in json.dumps(message)
        assert message["color"] == "danger"
        (tmp_path / "key").unlink()
        await told.server.tell(spike("B", "warning"), summary="spike in B")
        await told.until(("owners", "firing", ["spike in B"]))
