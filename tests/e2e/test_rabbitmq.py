"""Messages of RabbitMQ, end to end: a whole process between a real broker and the receivers, killed and without a
broker."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support.rabbitmq import (
    PASSWORD,
    USER,
    Peer,
    RabbitMQ,
    breakable_rabbitmq,
    breaks_rabbitmq,
    new_queue,
    peer,
    shared_rabbitmq,
)
from support.receiver import Answer, Receiver
from support.smtp import HANG, MailServer
from support.tocsin import TocsinProcess, command, running, running_with
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e

QUICK = {"timeout": "2s", "backoff_initial": "20ms", "backoff_max": "100ms", "max_attempts": 1000}
MIGRATION = Path(__file__).parents[2] / "docs" / "migrate-from-alertman.md"


class Scenario:
    """A queue, a mail server, a receiver of webhooks, and a configuration with the alerts `email` and `sms`."""

    def __init__(self, directory: Path, broker: RabbitMQ, receiver: Receiver, mail: MailServer) -> None:
        self.directory = directory
        self.receiver = receiver
        self.mail = mail
        self.queue = new_queue()
        self.config: dict[str, Any] = {
            "ledger": {"path": str(directory / "tocsin.db")},
            "web": {"listen": "127.0.0.1:0"},
            "log": {"level": "debug"},
            "sources": {
                "letters": {
                    "type": "rabbitmq",
                    "host": "127.0.0.1",
                    "port": broker.port,
                    "user": USER,
                    "password": PASSWORD,
                    "queue": self.queue,
                    "defaults": {"recipients": ["ops@example.com"], "subject": "by default"},
                    "backoff_initial": "100ms",
                    "backoff_max": "300ms",
                }
            },
            "channels": {
                "mail": {
                    "type": "email",
                    "host": "127.0.0.1",
                    "port": mail.port,
                    "security": "none",
                    "from": "tocsin@example.com",
                    "to": [{"column": "recipients"}],
                    "subject": "{{ row.subject }}",
                    **QUICK,
                },
                "hook": {"type": "webhook", "url": f"{receiver.url}/hook", **QUICK},
            },
            "alerts": {
                "email": {"source": "letters", "labels": ["severity"], "notify": ["mail"]},
                "sms": {"source": "letters", "notify": ["hook"]},
            },
        }

    @property
    def source(self) -> dict[str, Any]:
        source: dict[str, Any] = self.config["sources"]["letters"]
        return source

    @property
    def numbers(self) -> list[int]:
        """The numbers that the hook received, repeats of one id left out."""
        first = {request.json["id"]: request.json["row"]["n"] for request in self.receiver.requests}
        return sorted(first.values())

    @property
    def mails(self) -> list[tuple[str, str]]:
        """Recipients and subject of each mail."""
        return [(",".join(mail.recipients), mail.parsed["Subject"]) for mail in self.mail.mails]


@pytest.fixture
async def scenario(tmp_path: Path) -> AsyncIterator[Scenario]:
    async with Receiver() as receiver, MailServer() as mail:
        yield Scenario(tmp_path, shared_rabbitmq(), receiver, mail)


@pytest.fixture
async def other(scenario: Scenario) -> AsyncIterator[Peer]:
    async with peer(shared_rabbitmq()) as connected:
        yield connected


def run(scenario: Scenario) -> Any:
    return running(scenario.directory, scenario.config)


def message(*types: str, **content: Any) -> dict[str, Any]:
    return {"message": {"alertTypes": list(types), "message": content}}


def log_is_clean(tocsin: TocsinProcess) -> bool:
    """Whether the log holds no traceback and no password, in any spelling."""
    text = "\n".join(tocsin.log)
    return not any(part in text for part in ("Traceback", PASSWORD[:6], "p%40ss", "never retrieved"))


async def test_each_alert_type_is_delivered_and_retried_independently(scenario: Scenario, other: Peer) -> None:
    scenario.receiver.script(*[Answer(status=503)] * 3)
    async with run(scenario) as tocsin:
        await tocsin.until_ready()
        await other.send(scenario.queue, message("email", "sms", n=1))
        await scenario.receiver.arrived(4)
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="hook")
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="mail")
        assert await other.counts(scenario.queue) == (0, 1)
        assert await tocsin.stop() == 0
        assert log_is_clean(tocsin)
    assert scenario.mails == [("ops@example.com", "by default")]
    assert len({request.json["id"] for request in scenario.receiver.requests}) == 1


@pytest.mark.parametrize("named", [True, False], ids=["with message_id", "without"])
async def test_kill_loses_no_message_and_repeats_no_id(scenario: Scenario, other: Peer, named: bool) -> None:
    async with run(scenario) as tocsin:
        await tocsin.until_ready()
        sending = asyncio.gather(
            *(
                other.send(scenario.queue, message("sms", n=n), **({"message_id": f"m-{n}"} if named else {}))
                for n in range(300)
            )
        )
        await scenario.receiver.arrived(20)
        await tocsin.kill()
        await sending
    async with run(scenario) as tocsin:
        await other.until_waiting(scenario.queue, 0)
        await until(lambda: set(scenario.numbers) == set(range(300)), "every message")
        await tocsin.until_metric("tocsin_channel_pending", 0, channel="hook")
        if named:
            assert scenario.numbers == list(range(300))
        else:
            assert len(scenario.numbers) >= 300


async def test_stored_unacknowledged_message_is_sent_once_after_kill(scenario: Scenario, other: Peer) -> None:
    async with run(scenario) as tocsin:
        await tocsin.until_ready()
        assert await tocsin.stop() == 0
    dead = await other.channel.declare_queue(f"{scenario.queue}.dead", passive=True)
    await dead.unbind(f"{scenario.queue}.dead", "")
    await other.send(scenario.queue, b"not JSON")
    await other.send(scenario.queue, message("sms", n=1), message_id="m-1")
    scenario.source["declare"] = False
    # The dead letter cannot be stored, so neither message is acknowledged.
    async with run(scenario) as tocsin:
        await scenario.receiver.arrived(1)
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="hook")
        await tocsin.until_not_ready("routes a dead letter to no queue")
        await tocsin.kill()
    await other.until_waiting(scenario.queue, 2)
    await dead.bind(f"{scenario.queue}.dead", "")
    async with run(scenario) as tocsin:
        [letter] = await other.taken(f"{scenario.queue}.dead", 1)
        await other.until_waiting(scenario.queue, 0)
        await tocsin.until_ready()
        assert await tocsin.stop() == 0
    assert letter.body == b"not JSON"
    assert len(scenario.receiver.requests) == 1


async def test_unusable_message_is_dead_lettered_and_blocks_nothing(scenario: Scenario, other: Peer) -> None:
    async with run(scenario) as tocsin:
        await tocsin.until_ready()
        bad = [b"not JSON", {"message": {"alertTypes": ["sms"]}}, message("sms", "fax", n=1), {"n": 2}, b""]
        await other.send(scenario.queue, *bad, message("sms", n=3))
        letters = await other.taken(f"{scenario.queue}.dead", 5)
        await until(lambda: scenario.numbers == [1, 3], "the good ones")
        reasons = [letter.headers["x-tocsin-reason"] for letter in letters]
        assert reasons == ["malformed", "missing", "unmatched", "missing", "malformed"]
        assert letters[2].headers["x-tocsin-detail"] == "no alert takes fax"
        assert await tocsin.metric("tocsin_source_refused_events_total", source="letters", reason="malformed") == 2
        assert await tocsin.metric("tocsin_source_refused_events_total", source="letters", reason="missing") == 2
        assert await tocsin.metric("tocsin_source_unmatched_events_total", source="letters") == 1
        assert await other.counts(scenario.queue) == (0, 1)
        assert await tocsin.ready() == ""


async def test_message_sets_recipients_and_subject(scenario: Scenario, other: Peer) -> None:
    async with run(scenario) as tocsin:
        await tocsin.until_ready()
        await other.send(
            scenario.queue,
            {"alert": "email", "recipients": ["ann@example.com", "ben@example.com"], "subject": "Card 1234"},
            message("email", recipients="cho@example.com"),
            {"alert": "email", "recipients": None},
        )
        await scenario.mail.arrived(3)
    assert sorted(scenario.mails) == [
        ("ann@example.com,ben@example.com", "Card 1234"),
        ("cho@example.com", "by default"),
        ("ops@example.com", "by default"),
    ]


async def test_slow_or_refused_mail_blocks_nothing_else(scenario: Scenario, other: Peer) -> None:
    scenario.mail.script("DATA", *[HANG] * 4)
    scenario.config["channels"]["mail"]["timeout"] = "8s"  # the fourth hangs before the first times out
    async with run(scenario) as tocsin:
        await tocsin.until_ready()
        await other.send(scenario.queue, *(message("email", "sms", n=n) for n in range(100)))
        await until(lambda: scenario.mail.under_way == 4, "mails under way")
        await until(lambda: len(scenario.numbers) == 100, "the other channel")
        await other.until_waiting(scenario.queue, 0)
        await until_some(lambda: tocsin.metric("tocsin_channel_pending", channel="mail"), "mails that wait")
        scenario.mail.script("MAIL", *["550 5.7.1 not from you"] * 100)
        await until_some(lambda: tocsin.metric("tocsin_channel_dead_letters", channel="mail"), "dead letters")


@breaks_rabbitmq
async def test_missing_broker_is_reported_and_retried(scenario: Scenario) -> None:
    own = breakable_rabbitmq()
    own.kill()
    scenario.source["port"] = own.port
    async with run(scenario) as tocsin:
        reasons = await tocsin.until_not_ready("email", f"RabbitMQ at 127.0.0.1:{own.port}")
        assert "Connection refused" in reasons
        await asyncio.to_thread(own.start)
        await tocsin.until_ready()
        async with peer(own) as other:
            await other.send(scenario.queue, message("sms", n=1), message_id="m-1")
            await scenario.receiver.arrived(1)
        # And while running.
        await asyncio.to_thread(own.stop)
        await tocsin.until_not_ready("RabbitMQ")
        await asyncio.to_thread(own.start)
        await tocsin.until_ready()
        async with peer(own) as other:
            await other.send(scenario.queue, message("sms", n=2))
            await until(lambda: scenario.numbers == [1, 2], "the second one")
        assert log_is_clean(tocsin)


async def test_process_ends_with_status_after_give_up_after(tmp_path: Path, scenario: Scenario) -> None:
    scenario.source.update(port=1, give_up_after="500ms")
    async with run(scenario) as tocsin:
        assert await tocsin.exited() == 124
        assert tocsin.logged("source down", "RabbitMQ at 127.0.0.1:1")
        assert tocsin.logged("tocsin: source letters: RabbitMQ at 127.0.0.1:1")
        assert log_is_clean(tocsin)


async def test_password_never_appears_in_any_output(scenario: Scenario, other: Peer) -> None:
    wrong = quote(f"{PASSWORD}-wrong", safe="")
    for name in ("host", "port", "user", "password"):
        del scenario.source[name]
    scenario.source["url"] = f"amqp://{USER}:{wrong}@127.0.0.1:{shared_rabbitmq().port}"
    async with run(scenario) as tocsin:
        reasons = await tocsin.until_not_ready("ACCESS_REFUSED")
        assert PASSWORD[:6] not in reasons
        scenario.source["url"] = scenario.source["url"].replace(wrong, quote(PASSWORD, safe=""))
        tocsin.write(scenario.config)
        tocsin.signal(signal.SIGHUP)
        await tocsin.until_logged("configuration applied")
        await tocsin.until_ready()
        await other.send(scenario.queue, message("sms", n=1))
        await scenario.receiver.arrived(1)
        shown = str(await tocsin.json("/api/v1/status")) + (await tocsin.get("/metrics"))[1]
        assert PASSWORD[:6] not in shown
        assert log_is_clean(tocsin)


async def test_history_of_message_can_be_queried(scenario: Scenario, other: Peer) -> None:
    scenario.receiver.script(Answer(status=500, body=b"later"))
    async with run(scenario) as tocsin:
        await tocsin.until_ready()
        await other.send(scenario.queue, message("sms", n=1))
        await tocsin.until_metric("tocsin_channel_delivered_total", 1, channel="hook")
        [found] = (await tocsin.json("/api/v1/notifications?status=delivered"))["notifications"]
        shown = await tocsin.json(f"/api/v1/notifications/{found['id']}")
        assert [one["detail"] for one in shown["failed_attempts"]] == ["500 later"]
    status, output, _ = await command(scenario.directory, "history", "sms", "-c", "tocsin.yaml")
    assert status == 0
    assert "hook: 1 delivered" in output


async def test_alertman_migration_example_runs_with_its_environment(scenario: Scenario, other: Peer) -> None:
    # As Alertman declares them: a topic exchange that is not durable, and a durable queue without arguments.
    exchange = await other.channel.declare_exchange("dummy-exchange", "topic")
    queue = await other.channel.declare_queue("dummy_alerts_queue", durable=True)
    await queue.bind(exchange, "dummy-alerts")
    [example] = re.findall(r"^```yaml\n(.*?)^```", MIGRATION.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (scenario.directory / "tocsin.yaml").write_text(
        f'{example}\nweb: {{listen: "127.0.0.1:0"}}\nledger: {{path: "{scenario.directory}/tocsin.db"}}\n'
    )
    environment = {
        "LOG_LEVEL": "DEBUG",
        "MESSAGE_BROKER_SERVICE_HOST": "127.0.0.1",
        "MESSAGE_BROKER_SERVICE_PORT": str(shared_rabbitmq().port),
        "MESSAGE_BROKER_SERVICE_USERNAME": USER,
        "MESSAGE_BROKER_SERVICE_PASSWORD": PASSWORD,
        "SMTP_HOSTNAME": "127.0.0.1",
        "SMTP_PORT": str(scenario.mail.port),
        "SMTP_USERNAME": "u",
        "SMTP_PASSWORD": "p",
        "SMTP_SECURITY": "none",
        "TRANSACTION_FRAUD_EMAIL_ALERT_FROM": "fraud@example.com",
        "TRANSACTION_FRAUD_EMAIL_ALERT_TO": "ops@example.com",
        "SMS_URL": f"json://127.0.0.1:{scenario.receiver.port}",
        "SMS_TO": "4917000000",
    }
    async with running_with(scenario.directory, file=None, **environment) as tocsin:
        await tocsin.until_ready()
        text = {"message": {"alertTypes": ["email", "sms"], "message": "Order 7 looks like fraud"}}
        await other.send("dummy-alerts", text, message("email", order=8), exchange="dummy-exchange")
        await scenario.mail.arrived(2)
        [sms] = await scenario.receiver.arrived(1)
        assert log_is_clean(tocsin)
    assert scenario.mails == [("ops@example.com", "Email Subject")] * 2
    bodies = [mail.part("plain") for mail in scenario.mail.mails]
    assert any("Order 7 looks like fraud" in body for body in bodies)
    assert any('"order":8' in body.replace(" ", "") for body in bodies)
    assert sms.path == "/4917000000"
    assert "Order 7 looks like fraud" in sms.json["message"]
