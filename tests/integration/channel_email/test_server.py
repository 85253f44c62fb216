"""The email channel against a mail server on this machine: connections and refusals."""

from collections.abc import AsyncIterator

import pytest
import structlog.testing

from support.email_channels import email_channel, speaking
from support.messages import message
from support.sending import Build, closing, sent, without
from support.smtp import CUT, HANG, MailServer
from support.waiting import until
from tocsin.channels.base import Delivered, Paused, Rejected, Retry
from tocsin.errors import ConfigError, Reason


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    async with closing(email_channel) as build:
        yield build


# Connections.


async def test_connection_is_reused_for_next_mail(server: MailServer, build: Build) -> None:
    channel = build(server)
    for key in "abc":
        assert await sent(channel, message(key=key)) == Delivered()
    assert server.connections == 1


async def test_connections_are_limited_by_concurrency(server: MailServer, build: Build) -> None:
    channel = build(server, concurrency=3)
    results = await channel.send([message(key=str(number)) for number in range(30)])
    assert results == [Delivered()] * 30
    assert server.connections <= 3
    assert server.most_under_way <= 3


async def test_connection_closed_by_server_costs_no_attempt(server: MailServer, build: Build) -> None:
    channel = build(server)
    await sent(channel)
    server.hang_up()
    assert await sent(channel, message(key="18")) == Delivered()
    assert server.connections == 2


async def test_new_connection_queries_server_extensions_again(server: MailServer, build: Build) -> None:
    channel = build(server, **{"from": "zo\u00eb@example.com"})
    await sent(channel)
    server.hang_up()
    await until(lambda: not server.open, "the connection is closed")
    assert await sent(channel, message(key="18")) == Delivered()


@pytest.mark.parametrize("answer", ["421 4.4.2 idle for too long", CUT, HANG])
@pytest.mark.parametrize("command", ["MAIL", "RCPT"])
async def test_dead_kept_connection_costs_no_attempt(
    server: MailServer, build: Build, answer: str, command: str
) -> None:
    channel = build(server, timeout="1500ms")
    await sent(channel)
    server.script(command, answer)
    assert await sent(channel, message(key="18")) == Delivered()
    assert server.connections == 2
    assert len(server.mails) == 2


async def test_several_dead_connections_cost_no_attempt(server: MailServer, build: Build) -> None:
    channel = build(server, concurrency=4)
    await channel.send([message(key=str(number)) for number in range(4)])
    server.script("MAIL", *["421 4.3.2 restarting"] * 4)
    assert await sent(channel, message(key="18")) == Delivered()


async def test_mail_cut_during_data_is_not_resent_immediately(server: MailServer, build: Build) -> None:
    channel = build(server)
    await sent(channel)
    server.script("DATA", CUT)
    result = await sent(channel, message(key="18"))
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert server.connections == 1


async def test_idle_connection_is_closed(server: MailServer, build: Build) -> None:
    channel = build(server, idle_timeout="50ms")
    await sent(channel)
    await until(lambda: not server.open, "the connection is closed")
    assert await sent(channel, message(key="18")) == Delivered()


async def test_close_quits_every_connection(server: MailServer, build: Build) -> None:
    channel = build(server)
    await channel.send([message(key=str(number)) for number in range(4)])
    await channel.close()
    await until(lambda: not server.open, "the connections are closed")


async def test_ehlo_uses_the_configured_name(server: MailServer, build: Build) -> None:
    await sent(build(server, hello="tocsin.example.com"))
    assert server.hello == "tocsin.example.com"


async def test_unreachable_server_is_retried_until_it_returns(build: Build) -> None:
    server = MailServer()
    async with server:
        channel = build(server)
        assert await sent(channel) == Delivered()
    result = await sent(channel, message(key="18"))
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    again = MailServer()
    again.port = server.port
    async with again:
        assert await sent(channel, message(key="18")) == Delivered()
        assert await sent(channel, message(key="19")) == Delivered()
        assert again.connections == 1
        await channel.close()


async def test_silent_server_is_retried_after_timeout(server: MailServer, build: Build) -> None:
    server.script("DATA", HANG)
    assert await sent(build(server, timeout="300ms")) == Retry(Reason.TIMEOUT, "no answer within 0.3 s")


async def test_connection_is_not_reused_after_timeout(server: MailServer, build: Build) -> None:
    channel = build(server, timeout="300ms")
    server.script("DATA", HANG)
    await sent(channel)
    await until(lambda: not server.open, "the connection is closed")
    assert await sent(channel, message(key="18")) == Delivered()
    assert server.connections == 2


@pytest.mark.parametrize(
    ("lines", "kind", "reason"),
    [
        ([b"554 no service for you\r\n"], Paused, Reason.UNAUTHORIZED),
        ([b"421 4.7.0 too many connections\r\n"], Retry, Reason.RATE_LIMITED),
        ([b"421 shutting down\r\n"], Retry, Reason.SERVER_ERROR),
        ([b"hello there\r\n"], Retry, Reason.SERVER_ERROR),
        ([b"x" * 100_000], Retry, Reason.SERVER_ERROR),
        ([b"220 hi\r\n", b"502 no\r\n", b"502 no\r\n"], Paused, Reason.UNAUTHORIZED),
        ([], Retry, Reason.CONNECTION),
    ],
)
async def test_invalid_or_refusing_server_is_classified(
    build: Build, lines: list[bytes], kind: type, reason: Reason
) -> None:
    async with speaking(*lines) as server:
        result = await sent(build(server))
    assert not isinstance(result, Delivered)
    assert (type(result), result.reason) == (kind, reason)
    assert len(result.detail) <= 200
    assert result.detail.isprintable()


# Refusals.


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        ("421 4.3.2 shutting down", Retry, Reason.SERVER_ERROR),
        ("450 4.2.1 mailbox busy", Retry, Reason.RATE_LIMITED),
        ("451 4.3.0 local error", Retry, Reason.SERVER_ERROR),
        ("451 4.7.1 greylisted, come back in 5 minutes", Retry, Reason.RATE_LIMITED),
        ("452 4.3.1 out of room", Retry, Reason.RATE_LIMITED),
        ("550 5.7.1 spam", Rejected, Reason.REJECTED),
        ("554 no", Rejected, Reason.REJECTED),
    ],
)
async def test_refusal_is_classified_by_its_code(
    server: MailServer, build: Build, command: str, answer: str, kind: type, reason: Reason
) -> None:
    server.script(command, answer)
    channel = build(server)
    result = await sent(channel)
    assert not isinstance(result, Delivered)
    assert (type(result), result.reason) == (kind, reason)
    assert answer in result.detail
    assert await sent(channel, message(key="18")) == Delivered()
    assert not server.mails[-1].recipients[1:]


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
async def test_refusal_keeps_the_connection_open(server: MailServer, build: Build, command: str) -> None:
    server.script(command, "550 5.7.1 no")
    channel = build(server)
    await sent(channel)
    await sent(channel, message(key="18"))
    assert server.connections == 1


@pytest.mark.parametrize("answer", ["552 5.3.4 too big", "552 too big"])
async def test_mail_refused_as_too_large_is_rejected(server: MailServer, build: Build, answer: str) -> None:
    server.script("MAIL", answer)
    result = await sent(build(server))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TOO_LARGE


async def test_mail_above_announced_size_is_not_sent(build: Build) -> None:
    async with MailServer(size=10_000) as server:
        channel = build(server, text="{{ row.note }}")
        result = await sent(channel, message(extra={"note": ("text", "x" * 20_000)}))
        assert isinstance(result, Rejected)
        assert result.reason is Reason.TOO_LARGE
        assert "the server accepts 10000" in result.detail
        assert await sent(channel) != result


THREE = ["ann@example.com", "bob@example.com", "cy@example.com"]


async def test_refused_recipient_is_noted_and_others_get_mail(server: MailServer, build: Build) -> None:
    server.script("RCPT bob@example.com", "550 5.1.1 no such user")
    channel = build(server, to=THREE)
    what = message()
    with structlog.testing.capture_logs() as logs:
        result = await sent(channel, what)
    assert result == Delivered("refused: bob@example.com: 550 5.1.1 no such user")
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com")]
    [line] = [line for line in logs if line["event"] == "recipient refused"]
    assert (line["recipient"], line["answer"], line["id"]) == ("bob@example.com", "550 5.1.1 no such user", what.id)


async def test_deferred_recipient_is_retried_alone(server: MailServer, build: Build) -> None:
    server.script("RCPT bob@example.com", "450 4.2.0 greylisted", "450 4.2.0 greylisted")
    channel = build(server, to=THREE)
    waits = Retry(Reason.RATE_LIMITED, "2 of 3 have it; bob@example.com: 450 4.2.0 greylisted")
    assert await sent(channel) == waits
    assert await sent(channel) == waits
    assert await sent(channel) == Delivered()
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com"), ("bob@example.com",)]
    assert len({mail.parsed["Message-ID"] for mail in server.mails}) == 1
    assert server.mails[1].parsed["To"] == ", ".join(THREE)


async def test_deferred_and_refused_recipients_are_noted_once(server: MailServer, build: Build) -> None:
    server.script("RCPT ann@example.com", "550 5.1.1 no such user")
    server.script("RCPT bob@example.com", "450 4.2.0 later", "550 5.2.1 disabled")
    channel = build(server, to=THREE)
    assert isinstance(await sent(channel), Retry)
    result = await sent(channel)
    assert isinstance(result, Delivered)
    assert result.note == ("refused: ann@example.com: 550 5.1.1 no such user; bob@example.com: 550 5.2.1 disabled")
    assert [mail.recipients for mail in server.mails] == [("cy@example.com",)]


async def test_failed_attempt_keeps_the_pending_recipients(server: MailServer, build: Build) -> None:
    server.script("RCPT bob@example.com", "450 4.2.0 later")
    channel = build(server, to=THREE)
    assert isinstance(await sent(channel), Retry)
    server.script("DATA", CUT)
    assert isinstance(await sent(channel), Retry)
    assert await sent(channel) == Delivered()
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com"), ("bob@example.com",)]


async def test_mail_with_all_recipients_refused_is_rejected(server: MailServer, build: Build) -> None:
    server.script("RCPT", *["550 5.1.1 no such user"] * 3)
    result = await sent(build(server, to=THREE))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.REJECTED
    assert "ann@example.com: 550 5.1.1 no such user; bob@example.com: 550" in result.detail
    assert not server.mails


def test_missing_library_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch, build: Build) -> None:
    without(monkeypatch, "aiosmtplib", *(f"tocsin.channels.email.{name}" for name in ("channel", "server")))
    with pytest.raises(ConfigError, match=r"install it with: pip install 'tocsin\[email\]'"):
        build(MailServer(), port=25)
