"""Digests larger than a mail server or a Kafka topic accepts, through a real ledger and dispatcher."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from support.channel_ends import KafkaEnd
from support.dispatching import DispatcherHarness
from support.ledger import commit, transition
from support.smtp import MailServer
from support.waiting import until_some
from tocsin.channels import email, kafka
from tocsin.channels.base import Channel
from tocsin.ledger.base import Status
from tocsin.model import Address

GROUP = Address(channel="hook", ordering_key="group", interval=0.2)
ROWS = 30
LARGE = 17
"""The row that is too large alone."""


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[DispatcherHarness]:
    made = DispatcherHarness(tmp_path / "ledger.db", clock=time.time)  # sockets take their time
    yield made
    await made.close()


async def sent_through(outbox: DispatcherHarness, channel: Channel) -> None:
    """Send a digest, and wait until all of it is delivered but the one row that is too large."""
    outbox.start(cast("Any", channel), max_age=1e12)
    notes = ["n" * (30_000 if number == LARGE else 1_000) for number in range(ROWS)]
    transitions = [transition(str(number), note=note) for number, note in enumerate(notes)]
    await outbox.ledger.commit(replace(commit(), transitions=[(one, [GROUP]) for one in transitions]))
    outbox.dispatchers[0].wake()

    async def settled() -> bool:
        return all(record.status is not Status.PENDING for record in await outbox.records())

    await until_some(settled, "nothing pending")
    found = {record.row[0]: (record.status, record.reason) for record in await outbox.records()}
    assert found.pop(str(LARGE)) == (Status.DEAD, "too_large")
    assert {status for status, _ in found.values()} == {Status.DELIVERED}


def whole(parts: list[list[int]]) -> None:
    """All rows arrived once, in order, in several parts."""
    assert [row for part in parts for row in part] == [row for row in range(ROWS) if row != LARGE]
    assert len(parts) > 2


def mail_channel(server: MailServer) -> Channel:
    config = email.Config.model_validate(
        {
            "type": "email",
            "host": "127.0.0.1",
            "port": server.port,
            "security": "none",
            "from": "tocsin@example.com",
            "to": ["ann@example.com"],
            "text": "{{ merged | map(attribute='row.order_id') | list | json }}\n{{ merged | json }}",
        }
    )
    return cast("Channel", email.build("hook", config, {"late": config}))


class Silent(MailServer):
    """A server that does not announce its limit."""

    async def handle_EHLO(  # noqa: N802 - aiosmtpd counts the parameters
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        said = await super().handle_EHLO(server, session, envelope, hostname, responses)
        return [line for line in said if "SIZE" not in line]


@pytest.mark.parametrize("kind", [MailServer, Silent], ids=["SIZE", "552"])
async def test_mail_over_the_limit_is_sent_in_parts(outbox: DispatcherHarness, kind: type[MailServer]) -> None:
    """Whether the server announces its limit or refuses the mail."""
    async with kind(size=20_000) as server:
        await sent_through(outbox, mail_channel(server))
        parts = [json.loads(mail.part("plain").splitlines()[0]) for mail in server.mails]
    whole(parts)
    ids = [mail.parsed["Message-ID"] for mail in server.mails]
    assert len(set(ids)) == len(ids)


async def test_record_over_the_limit_is_written_in_parts(outbox: DispatcherHarness) -> None:
    """The limit is that of `max_bytes`."""
    async with KafkaEnd() as bench:
        fields = {**bench.settings(""), "max_bytes": 20_000, "compression": "none"}
        config = kafka.Config.model_validate({"type": "kafka", **fields})
        await sent_through(outbox, cast("Channel", kafka.build("hook", config, {"late": config})))
        parts = [[one["row"]["order_id"] for one in record.get("merged", [record])] for record in bench.arrived()]
    whole(parts)
