"""The email channel against a mail server on this machine: connections and refusals."""

import asyncio
import time

import pytest
import structlog.testing

from support.messages import message
from support.sending import Build, sent
from support.smtp import CUT, HANG, LATE, TAKEN, MailServer, speaking
from support.waiting import SOON, until
from tocsin.channels.base import Delivered, Paused, Rejected, Retry
from tocsin.errors import Reason

THREE = ["ann@example.com", "bob@example.com", "cy@example.com"]


# Connections.


async def test_connection_is_reused_for_next_mail(server: MailServer, build: Build) -> None:
    channel = build(hello="tocsin.example.com")
    for key in "abc":
        assert await sent(channel, message(key=key)) == Delivered()
    assert (server.connections, server.hello) == (1, "tocsin.example.com")


async def test_connections_are_limited_by_concurrency(server: MailServer, build: Build) -> None:
    channel = build(concurrency=3)
    assert await channel.send([message(key=str(number)) for number in range(30)]) == [Delivered()] * 30
    assert server.connections <= 3
    await channel.close()
    await until(lambda: not server.open, "the connections are closed")


@pytest.mark.parametrize("answer", ["421 4.4.2 idle for too long", CUT, HANG])
async def test_dead_kept_connections_cost_no_attempt(server: MailServer, build: Build, answer: str) -> None:
    """The new connection asks again for the extensions of the server."""
    channel = build(timeout="2s", concurrency=2, **{"from": "zo\u00eb@example.com"})
    await channel.send([message(key="1"), message(key="2")])
    server.script("RSET", answer, "421 4.3.2 restarting")
    assert await sent(channel, message(key="18")) == Delivered()
    server.hang_up()
    assert await sent(channel, message(key="19")) == Delivered()
    assert (server.connections, len(server.mails)) == (4, 4)


async def test_mail_cut_during_data_is_not_resent_immediately(server: MailServer, build: Build) -> None:
    channel = build()
    await sent(channel)
    server.script("DATA", CUT)
    result = await sent(channel, message(key="18"))
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert server.connections == 1


async def test_idle_connection_is_closed_without_waiting(server: MailServer, build: Build) -> None:
    """A server that never answers QUIT costs the mail nothing, and the end of the channel two seconds."""
    server.script("QUIT", HANG)
    channel = build(idle_timeout="10ms", timeout="1s")
    assert await sent(channel) == Delivered()
    await until(lambda: server.hanging, "the idle connection says good-bye")
    assert await sent(channel, message(key="18")) == Delivered()
    server.script("QUIT", HANG)
    async with asyncio.timeout(10):
        await channel.close()


async def test_unreachable_server_is_retried_until_it_returns(build: Build) -> None:
    async with MailServer() as server:
        channel = build(at=server)
        assert await sent(channel) == Delivered()
    result = await sent(channel, message(key="18"))
    assert result == Retry(Reason.CONNECTION, f"cannot connect to 127.0.0.1:{server.port}: Connection refused")
    again = MailServer()
    again.port = server.port
    async with again:
        assert await sent(channel, message(key="18")) == Delivered()
        assert await sent(channel, message(key="19")) == Delivered()
        assert again.connections == 1
        await channel.close()


@pytest.mark.parametrize("command", ["RSET", "MAIL", "RCPT", "DATA"])
async def test_mail_after_a_cancelled_one_arrives(server: MailServer, build: Build, command: str) -> None:
    """The library's client would take the late answer for the next mail's, or send commands into the content."""
    channel = build(to=THREE, concurrency=1)
    assert await sent(channel, message(key="kept connection")) == Delivered()
    server.script(command, HANG)
    attempt = asyncio.create_task(sent(channel, message(key="cancelled")))
    await until(lambda: server.hanging, f"the server has heard {command}")
    attempt.cancel()
    await asyncio.wait({attempt})
    assert await sent(channel, message(key="after")) == Delivered()
    assert server.connections == 2
    assert [mail.recipients for mail in server.mails] == [tuple(THREE)] * 2
    assert "after" in server.mails[1].part("plain")


@pytest.mark.parametrize("answer", ["250 OK", "550 5.7.1 not the first one"])
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
async def test_late_answer_is_not_used_for_next_mail(
    server: MailServer, build: Build, command: str, answer: str
) -> None:
    """The answer to the first mail comes when its attempt is over and the next one has begun."""
    channel = build(timeout="500ms", concurrency=1)
    server.script(command, LATE + answer)
    assert await sent(channel, message(key="late")) == Retry(Reason.TIMEOUT, "no answer within 0.5 s")
    assert await sent(channel, message(key="after")) == Delivered()
    await until(lambda: server.open == 1, "the first connection is closed")
    assert "after" in server.mails[-1].part("plain")


async def test_timeout_holds_for_the_whole_mail(server: MailServer, build: Build) -> None:
    """Each answer comes in time, all of them together do not; the library counts each on its own."""
    server.script("RCPT", *[LATE + "250 OK"] * 30)
    began = time.monotonic()
    result = await sent(build(to=[f"p{number}@example.com" for number in range(30)], timeout="1s"))
    assert result == Retry(Reason.TIMEOUT, "no answer within 1 s")
    assert time.monotonic() - began < SOON / 2
    assert not server.mails


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(CUT, Reason.CONNECTION), (HANG, Reason.TIMEOUT), ("451 4.3.0 lost it", Reason.SERVER_ERROR)],
)
async def test_mail_without_final_answer_is_repeated_unchanged(
    server: MailServer, build: Build, answer: str, reason: Reason
) -> None:
    """Whether the server has it is unknown, so it is sent again with the same Message-ID."""
    server.script("DATA", TAKEN + answer)
    channel = build(timeout="500ms")
    result = await sent(channel)
    assert isinstance(result, Retry)
    assert result.reason is reason
    assert await sent(channel) == Delivered()
    first, second = server.mails
    assert first.content == second.content


@pytest.mark.parametrize(
    ("lines", "kind", "reason"),
    [
        ([b"554 no service for you\r\n"], Paused, Reason.UNAUTHORIZED),
        ([b"421 4.7.0 too many connections\r\n"], Retry, Reason.RATE_LIMITED),
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
        result = await sent(build(at=server))
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
        ("451 4.7.1 greylisted, come back in 5 minutes", Retry, Reason.RATE_LIMITED),
        ("550 5.7.1 spam", Rejected, Reason.REJECTED),
    ],
)
async def test_refusal_is_classified_by_its_code(
    server: MailServer, build: Build, command: str, answer: str, kind: type, reason: Reason
) -> None:
    """The connection is kept, except after a 421."""
    server.script(command, answer)
    channel = build()
    result = await sent(channel)
    assert not isinstance(result, Delivered)
    assert (type(result), result.reason) == (kind, reason)
    assert answer in result.detail
    assert await sent(channel, message(key="18")) == Delivered()
    assert server.mails[-1].recipients == ("ann@example.com",)
    assert server.connections == 1 or answer.startswith("421")


@pytest.mark.parametrize("answer", ["552 5.3.4 too big", "552 too big"])
async def test_mail_refused_as_too_large_is_rejected(server: MailServer, build: Build, answer: str) -> None:
    server.script("MAIL", answer)
    result = await sent(build())
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TOO_LARGE


async def test_mail_above_announced_size_is_not_sent(build: Build) -> None:
    async with MailServer(size=10_000) as server:
        channel = build(at=server, text="{{ row.note }}")
        result = await sent(channel, message(extra={"note": ("text", "x" * 20_000)}))
        assert isinstance(result, Rejected)
        assert result.reason is Reason.TOO_LARGE
        assert "the server accepts 10000" in result.detail


async def test_refused_recipient_is_noted_and_logged(server: MailServer, build: Build) -> None:
    server.script("RCPT bob@example.com", "550 5.1.1 no such user")
    channel = build(to=THREE)
    what = message()
    with structlog.testing.capture_logs() as logs:
        result = await sent(channel, what)
    assert result == Delivered("refused: bob@example.com: 550 5.1.1 no such user")
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com")]
    [line] = [line for line in logs if line["event"] == "recipient refused"]
    assert (line["recipient"], line["answer"], line["id"]) == ("bob@example.com", "550 5.1.1 no such user", what.id)


async def test_deferred_recipient_is_retried_alone(server: MailServer, build: Build) -> None:
    """Also after an attempt that failed as a whole."""
    later = "450 4.2.0 greylisted"
    server.script("RCPT bob@example.com", later, later)
    channel = build(to=THREE)
    for _ in range(2):
        result = await sent(channel)
        assert result == Retry(Reason.RATE_LIMITED, f"2 of 3 have it; bob@example.com: {later}")
    server.script("DATA", CUT)
    assert isinstance(await sent(channel), Retry)
    assert await sent(channel) == Delivered()
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com"), ("bob@example.com",)]
    assert len({mail.parsed["Message-ID"] for mail in server.mails}) == 1
    assert server.mails[1].parsed["To"] == ", ".join(THREE)


async def test_deferred_and_refused_recipients_are_noted_once(server: MailServer, build: Build) -> None:
    server.script("RCPT ann@example.com", "550 5.1.1 no such user")
    server.script("RCPT bob@example.com", "450 4.2.0 later", "550 5.2.1 disabled")
    channel = build(to=THREE)
    assert isinstance(await sent(channel), Retry)
    result = await sent(channel)
    assert result == Delivered("refused: ann@example.com: 550 5.1.1 no such user; bob@example.com: 550 5.2.1 disabled")
    assert [mail.recipients for mail in server.mails] == [("cy@example.com",)]


async def test_421_for_one_recipient_retries_all(server: MailServer, build: Build) -> None:
    """The server closes for all: no recipient has the mail, and the next attempt reaches all three once."""
    server.script("RCPT bob@example.com", "421 4.3.2 shutting down")
    channel = build(to=THREE)
    assert await sent(channel) == Retry(Reason.SERVER_ERROR, "421 4.3.2 shutting down")
    assert not server.mails
    assert await sent(channel) == Delivered()
    assert [mail.recipients for mail in server.mails] == [tuple(THREE)]


async def test_mail_with_all_recipients_refused_is_rejected(server: MailServer, build: Build) -> None:
    server.script("RCPT", *["550 5.1.1 no such user"] * 3)
    result = await sent(build(to=THREE))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.REJECTED
    assert "ann@example.com: 550 5.1.1 no such user; bob@example.com: 550" in result.detail
    assert not server.mails


async def test_server_without_smtputf8_gets_ascii_recipients_only(build: Build) -> None:
    async with MailServer(utf8=False) as server:
        result = await sent(build(at=server, to=["zo\u00eb@example.com", "ann@example.com"]))
        assert isinstance(result, Delivered)
        assert "zo\u00eb@example.com: 553 the server takes no addresses that are not ASCII" in result.note
        assert server.mails[0].recipients == ("ann@example.com",)
        assert server.mails[0].content.isascii()
        for settings in ({"to": ["zo\u00eb@example.com"]}, {"from": "zo\u00eb@example.com"}):
            refused = await sent(build(at=server, **settings))
            assert isinstance(refused, Rejected)
            assert "SMTPUTF8" in refused.detail
