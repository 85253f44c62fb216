"""Alertmanager's configuration: routes, inhibition, Slack, and the messages that a real one sends."""

import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.alertmanager import Alertmanager, alertmanager
from support.monitoring_programs import Generation, each_generation, program
from support.prometheus import run
from support.receiver import Receiver
from support.waiting import until

FOLDER = Path(__file__).parents[2] / "alertmanager"
PLAIN, SLACK = FOLDER / "alertmanager.yml", FOLDER / "alertmanager.slack.yml"
INBOX = "http://inbox:8925/webhook/alertmanager"
KEY_FILE = "/run/secrets/slack-webhook-url"


ROUTES = [
    ("alertname=DeploymentSpike service=demo severity=critical organization=A owner=team-a", "on-call"),
    ("alertname=DeploymentSpike service=demo severity=warning organization=B owner=team-b", "owners"),
    ("alertname=DeploymentSpike service=demo severity=info organization=C", "owners"),
    ("alertname=AuctionAlert service=demo severity=warning rule=pizza item=x", "auction-house"),
    ("alertname=TocsinDown service=tocsin severity=critical", "operators-on-call"),
    ("alertname=TocsinSourceDown service=tocsin severity=critical alert=a", "operators-on-call"),
    ("alertname=TocsinDeadLetters service=tocsin severity=warning channel=people", "operators"),
    ("alertname=TargetDown service=stack severity=warning job=producer", "operators"),
    ("alertname=SomethingNew", "inbox"),
]


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@each_generation
@pytest.mark.parametrize("file", [PLAIN, SLACK], ids=lambda file: file.stem)
async def test_configuration_of_alertmanager_is_valid(file: Path, generation: Generation) -> None:
    status, output = await run(program("amtool", generation), "check-config", file)
    assert status == 0, output
    assert "SUCCESS" in output, output


@each_generation
async def test_alerts_are_routed_by_labels(generation: Generation) -> None:
    for labels, receiver in ROUTES:
        arguments = ("config", "routes", "test", f"--config.file={PLAIN}", f"--verify.receivers={receiver}")
        status, output = await run(program("amtool", generation), *arguments, *labels.split())
        assert status == 0, f"{labels}: {output}"


def test_every_receiver_sends_both_states_to_inbox() -> None:
    receivers = read(PLAIN)["receivers"]
    assert {receiver["name"] for receiver in receivers} == {receiver for _, receiver in ROUTES}
    for receiver in receivers:
        assert receiver == {"name": receiver["name"], "webhook_configs": [{"url": INBOX, "send_resolved": True}]}


def test_the_slack_file_differs_in_slack_alone() -> None:
    slack = read(SLACK)
    assert slack.pop("templates") == ["templates/*.tmpl"]
    for receiver in slack["receivers"]:
        (settings,) = receiver.pop("slack_configs")
        assert settings["api_url_file"] == KEY_FILE
        assert settings["send_resolved"]
    assert slack == read(PLAIN)


def test_no_secret_is_in_the_files() -> None:
    assert "_file:" not in PLAIN.read_text(encoding="utf-8")
    for path in FOLDER.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"hooks\.slack\.com|api_url:|password|token", text), path


class Messages:
    """A running Alertmanager, and the messages that its receivers got."""

    def __init__(self, receiver: Receiver, server: Alertmanager) -> None:
        self._receiver = receiver
        self._server = server

    async def report(self, summary: str, labels: str, *, over: bool = False) -> None:
        """Report an alert as Prometheus does."""
        await self._server.report(dict(pair.split("=") for pair in labels.split()), summary=summary, over=over)

    def at(self, path: str) -> list[Any]:
        return [request.json for request in self._receiver.requests if request.path == path]

    def sent(self) -> set[str]:
        """Receiver, status and summary of each alert that the inbox got."""
        return {
            f"{message['receiver']} {message['status']}: {alert['annotations']['summary']}"
            for message in self.at("/webhook/alertmanager")
            for alert in message["alerts"]
        }

    async def until(self, *expected: str) -> None:
        await until(lambda: {*expected} <= self.sent(), f"{expected}; sent {self.sent()}")


@asynccontextmanager
async def running(folder: Path, file: Path, generation: Generation = "installed") -> AsyncIterator[Messages]:
    """An Alertmanager with a shipped file, whose receivers are on this machine."""
    async with Receiver() as receiver:
        (folder / "key").write_text(f"{receiver.url}/slack")
        text = file.read_text(encoding="utf-8").replace(INBOX, f"{receiver.url}/webhook/alertmanager")
        text = text.replace(KEY_FILE, str(folder / "key")).replace("group_interval: 5s", "group_interval: 500ms")
        text = text.replace("group_wait: 1s", "group_wait: 300ms")
        shutil.copytree(FOLDER / "templates", folder / "templates")
        (folder / file.name).write_text(text, encoding="utf-8")
        async with alertmanager(folder, folder / file.name, generation=generation) as server:
            yield Messages(receiver, server)


SPIKE = "alertname=DeploymentSpike service=demo"


async def test_each_organization_fires_and_resolves_on_its_own(tmp_path: Path) -> None:
    async with running(tmp_path, PLAIN) as messages:
        await messages.report("A", f"{SPIKE} severity=critical organization=A")
        await messages.report("B", f"{SPIKE} severity=warning organization=B")
        await messages.report("C", f"{SPIKE} severity=warning organization=C")
        firing = {"on-call firing: A", "owners firing: B", "owners firing: C"}
        await messages.until(*firing)
        await messages.report("B", f"{SPIKE} severity=warning organization=B", over=True)
        await messages.until("owners resolved: B")
        assert messages.sent() == {*firing, "owners resolved: B"}
        assert [len(message["alerts"]) for message in messages.at("/webhook/alertmanager")] == [1] * 4
        assert messages.at("/slack") == []


async def test_consequences_of_a_worse_alert_are_muted(tmp_path: Path) -> None:
    """Of its own organization, alert or channel, and of no other."""
    async with running(tmp_path, PLAIN) as messages:
        await messages.report("A critical", f"{SPIKE} severity=critical organization=A")
        await messages.report("late down", "alertname=TocsinSourceDown service=tocsin severity=critical alert=late")
        for name, channel in (("Paused", "people"), ("Refusing", "mail")):
            labels = f"alertname=TocsinChannel{name} service=tocsin severity=critical channel={channel}"
            await messages.report(f"{channel} down", labels)
        operators = "operators-on-call firing"
        await messages.until("on-call firing: A critical", f"{operators}: late down")
        await messages.until(f"{operators}: people down", f"{operators}: mail down")
        # The last are sent: then the first would be, too.
        for organization, alert, channel in (("A", "late", "people"), ("A", "late", "mail"), ("B", "early", "audit")):
            own = "service=tocsin severity=warning"
            await messages.report(f"{organization} warning", f"{SPIKE} severity=warning organization={organization}")
            await messages.report(f"{alert} stalled", f"alertname=TocsinSourceStalled {own} alert={alert}")
            await messages.report(f"{channel} old", f"alertname=TocsinOutboxOld {own} channel={channel}")
        await messages.report("no organization", "alertname=AuctionAlert severity=warning")
        await messages.until("owners firing: B warning", "auction-house firing: no organization")
        await messages.until("operators firing: early stalled", "operators firing: audit old")
        assert not re.search(r"A warning|late stalled|people old|mail old", str(messages.sent()))


async def test_tocsin_down_mutes_its_other_alerts(tmp_path: Path) -> None:
    down = "alertname=TocsinDown service=tocsin severity=critical"
    async with running(tmp_path, PLAIN) as messages:
        await messages.report("down", down)
        await messages.until("operators-on-call firing: down")
        await messages.report("ledger", "alertname=TocsinLedgerDown service=tocsin severity=critical")
        await messages.report("dead", "alertname=TocsinDeadLetters service=tocsin severity=warning channel=people")
        await messages.report("target", "alertname=TargetDown service=stack severity=warning")
        await messages.until("operators firing: target")
        assert messages.sent() == {"operators-on-call firing: down", "operators firing: target"}
        await messages.report("down", down, over=True)
        await messages.until(
            "operators-on-call resolved: down", "operators-on-call firing: ledger", "operators firing: dead"
        )


@each_generation
async def test_slack_gets_messages_independently_of_inbox(tmp_path: Path, generation: Generation) -> None:
    async with running(tmp_path, SLACK, generation) as messages:
        await messages.report("spike in A", f"{SPIKE} severity=critical organization=A owner=team-a")
        await messages.until("on-call firing: spike in A")
        await until(lambda: messages.at("/slack"), "a message at Slack")
        (message,) = messages.at("/slack")[0]["attachments"]
        assert message["title"] == "Critical: spike in A"
        assert "What it is." in message["text"]
        assert "Owner: team-a. Since" in message["text"]
        assert "<no value>" not in json.dumps(message)
        assert message["color"] == "danger"
        (tmp_path / "key").unlink()
        await messages.report("spike in B", f"{SPIKE} severity=warning organization=B")
        await messages.until("owners firing: spike in B")
