"""One alert for two channels, mail and telephone, in a whole process: each is delivered on its own."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.receiver import Answer
from support.smtp import HANG, MailServer
from support.tocsin import Stage, command, staged
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e

QUICK = {"timeout": "2s", "backoff_initial": "20ms", "backoff_max": "100ms", "max_attempts": 1000}


@dataclass(frozen=True)
class Scene:
    """A stage whose alert tells `mail` and `phone`; the receiver is where text messages arrive."""

    stage: Stage
    mail: MailServer

    @property
    def messages(self) -> list[str]:
        """The titles that arrived at the telephone."""
        return [request.json["title"] for request in self.stage.receiver.requests]

    @property
    def subjects(self) -> list[str]:
        return [mail.parsed["Subject"] for mail in self.mail.mails]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with MailServer() as mail, staged(tmp_path) as stage:
        phone = f"json://127.0.0.1:{stage.receiver.port}/sms/{{{{ row.name }}}}"
        stage.config["channels"] = {
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
        stage.alert["notify"] = ["mail", "phone"]
        stage.alert["annotations"] = {"summary": "order {{ row.id }}"}
        yield Scene(stage, mail)


async def test_each_channel_is_delivered_on_its_own_and_one_that_fails_is_tried_again_alone(scene: Scene) -> None:
    scene.stage.receiver.script(*[Answer(status=500)] * 3)
    scene.stage.orders.insert(("1", "ann", "10"))
    async with scene.stage.run() as tocsin:
        await until(lambda: len(scene.messages) == 4, "three refusals and a delivery")
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="phone")
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="mail")
        assert await tocsin.stop() == 0
    assert scene.subjects == ["Fired: order 1"]
    assert {request.path for request in scene.stage.receiver.requests} == {"/sms/ann"}


async def test_what_was_not_delivered_before_a_kill_is_delivered_after_it(scene: Scene) -> None:
    scene.mail.script("DATA", *[HANG] * 4)
    scene.stage.orders.insert(("1", "ann", "10"))
    async with scene.stage.run() as tocsin:
        await until(lambda: scene.messages and scene.mail.under_way, "one told, the other on its way")
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="phone")
        await tocsin.kill()
    assert not scene.mail.mails
    async with scene.stage.run() as tocsin:
        await scene.mail.arrived(1)
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="mail")
        assert await tocsin.stop() == 0
    assert scene.subjects == ["Fired: order 1"]
    assert scene.messages == ["Fired: order 1"]


async def test_a_channel_that_does_not_answer_delays_no_other(scene: Scene) -> None:
    scene.stage.receiver.otherwise = lambda _: Answer(hang=True)
    async with scene.stage.run() as tocsin:
        await tocsin.until_ready()
        scene.stage.orders.insert(*((str(number), "ann", "1") for number in range(50)))
        await scene.mail.arrived(50)
        assert await tocsin.metric("tocsin_channel_delivered_total", channel="phone") == 0
    assert len({mail.parsed["Message-ID"] for mail in scene.mail.mails}) == 50


async def test_an_episode_is_one_thread_of_mails(scene: Scene) -> None:
    async with scene.stage.run() as tocsin:
        await tocsin.until_ready()
        scene.stage.orders.insert(("1", "ann", "10"))
        await scene.mail.arrived(1)
        scene.stage.orders.delete(("1", "ann", "10"))
        first, second = await scene.mail.arrived(2)
        assert await tocsin.stop() == 0
    assert second.parsed["Subject"] == "Resolved: order 1"
    assert second.parsed["In-Reply-To"] == first.parsed["Message-ID"]


async def test_what_becomes_of_a_mail_can_be_looked_up(scene: Scene) -> None:
    """Its attempts and errors, a recipient who was refused while another got it, and a row without a good address."""
    stage = scene.stage
    stage.config["channels"]["mail"]["to"] = ["desk@example.com", "{{ row.name }}@example.com"]
    scene.mail.script("DATA", "451 4.3.0 later")
    scene.mail.script("RCPT ann@example.com", "250 OK", "550 5.1.1 no such user")
    stage.orders.insert(("1", "ann", "10"))
    async with stage.run() as tocsin:
        [mail] = await scene.mail.arrived(1)
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="mail")
        assert await tocsin.stop() == 0
    match = re.match(r"<(\w+)@", str(mail.parsed["Message-ID"]))
    assert match is not None
    status, output, _ = await command(stage.directory, "outbox", "show", match[1], "-c", "tocsin.yaml")
    assert status == 0
    assert "451 4.3.0 later" in output
    assert "refused: ann@example.com: 550 5.1.1 no such user" in output


async def test_a_row_that_no_mail_can_be_sent_for_is_a_dead_letter_with_its_reason(scene: Scene) -> None:
    scene.stage.orders.insert(("1", "an n", "10"), ("2", "bob", "10"))
    async with scene.stage.run() as tocsin:
        await scene.mail.arrived(1)
        await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="mail")

        async def look() -> Any:
            _, output, _ = await command(scene.stage.directory, "outbox", "list", "--dead", "-c", "tocsin.yaml")
            return "no_recipients" in output and output

        assert await until_some(look)
        assert await tocsin.stop() == 0
    assert [mail.recipients for mail in scene.mail.mails] == [("bob@example.com",)]
