"""One alert for two channels, mail and telephone, in a whole process: each is delivered on its own."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.receiver import Answer
from support.smtp import HANG, MailServer
from support.tocsin import Harness, command, new_harness
from support.waiting import until

pytestmark = pytest.mark.e2e

QUICK = {"timeout": "2s", "backoff_initial": "20ms", "backoff_max": "100ms", "max_attempts": 1000}


@dataclass(frozen=True)
class Scenario:
    """A harness whose alert notifies `mail` and `phone`; the receiver gets the text messages."""

    harness: Harness
    mail: MailServer

    @property
    def messages(self) -> list[str]:
        """The titles that arrived at the telephone."""
        return [request.json["title"] for request in self.harness.receiver.requests]

    @property
    def subjects(self) -> list[str]:
        return [mail.parsed["Subject"] for mail in self.mail.mails]


@pytest.fixture
async def scenario(tmp_path: Path) -> AsyncIterator[Scenario]:
    async with MailServer() as mail, new_harness(tmp_path) as harness:
        phone = f"json://127.0.0.1:{harness.receiver.port}/sms/{{{{ row.name }}}}"
        harness.config["channels"] = {
            "mail": {
                "type": "email",
                "host": "127.0.0.1",
                "port": mail.port,
                "security": "none",
                "from": "tocsin@example.com",
                "to": ["{{ row.name }}@example.com"],
                **QUICK,
            },
            "phone": {"type": "apprise", "urls": [phone], **QUICK},
        }
        harness.alert["notify"] = ["mail", "phone"]
        harness.alert["annotations"] = {"summary": "order {{ row.id }}"}
        yield Scenario(harness, mail)


async def test_failing_channel_is_retried_alone(scenario: Scenario) -> None:
    """Each channel of a notification is delivered on its own."""
    scenario.harness.receiver.script(*[Answer(status=500)] * 3)
    scenario.harness.orders.insert(("1", "ann", "10"))
    async with scenario.harness.run() as tocsin:
        await until(lambda: len(scenario.messages) == 4, "three refusals and a delivery")
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="phone")
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="mail")
        assert await tocsin.stop() == 0
    assert scenario.subjects == ["Fired: order 1"]
    assert {request.path for request in scenario.harness.receiver.requests} == {"/sms/ann"}


async def test_pending_mail_survives_kill(scenario: Scenario) -> None:
    scenario.mail.script("DATA", *[HANG] * 4)
    scenario.harness.orders.insert(("1", "ann", "10"))
    async with scenario.harness.run() as tocsin:
        await until(lambda: scenario.messages and scenario.mail.under_way, "one delivered, the other being sent")
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="phone")
        await tocsin.kill()
    assert not scenario.mail.mails
    scenario.mail._script.clear()
    async with scenario.harness.run() as tocsin:
        await scenario.mail.arrived(1)
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="mail")
        assert await tocsin.stop() == 0
    assert scenario.subjects == ["Fired: order 1"]
    assert scenario.messages == ["Fired: order 1"]


async def test_silent_channel_delays_no_other(scenario: Scenario) -> None:
    scenario.harness.receiver.otherwise = lambda _: Answer(hang=True)
    async with scenario.harness.run() as tocsin:
        await tocsin.until_ready()
        scenario.harness.orders.insert(*((str(number), "ann", "1") for number in range(50)))
        await scenario.mail.arrived(50)
        assert await tocsin.metric("tocsin_channel_delivered_total", channel="phone") == 0
    assert len({mail.parsed["Message-ID"] for mail in scenario.mail.mails}) == 50


async def test_state_of_mail_can_be_queried(scenario: Scenario) -> None:
    """Its attempts and errors; a recipient who was refused while another got it; the mail about its
    end replies to it."""
    harness = scenario.harness
    harness.config["channels"]["mail"]["to"] = ["{{ row.name }}@example.com"]
    harness.config["channels"]["mail"]["cc"] = ["bob@example.com"]
    scenario.mail.script("DATA", "451 4.3.0 later")
    scenario.mail.script("RCPT ann@example.com", "250 OK", "550 5.1.1 no such user")
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(("1", "ann", "10"))
        await scenario.mail.arrived(1)
        harness.orders.delete(("1", "ann", "10"))
        first, second = await scenario.mail.arrived(2)
        await tocsin.until_metric("tocsin_channel_delivered_total", 2, channel="mail")
        assert await tocsin.stop() == 0
    assert second.parsed["Subject"] == "Resolved: order 1"
    assert second.parsed["In-Reply-To"] == first.parsed["Message-ID"]
    match = re.match(r"<(\w+)@", str(first.parsed["Message-ID"]))
    assert match is not None
    status, output, _ = await command(harness.directory, "outbox", "show", match[1], "-c", "tocsin.yaml")
    assert status == 0
    assert "451 4.3.0 later" in output
    assert "refused: ann@example.com: 550 5.1.1 no such user" in output


async def test_row_with_invalid_address_becomes_dead_letter(scenario: Scenario) -> None:
    scenario.harness.orders.insert(("1", "an n", "10"), ("2", "bob", "10"))
    async with scenario.harness.run() as tocsin:
        await scenario.mail.arrived(1)
        await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="mail")
        assert await tocsin.stop() == 0
    _, output, _ = await command(scenario.harness.directory, "outbox", "list", "--dead", "-c", "tocsin.yaml")
    assert "no_recipients" in output
    assert [mail.recipients for mail in scenario.mail.mails] == [("bob@example.com",)]
