"""Interrupted mails and late answers, which the client library does not handle."""

import asyncio
import time

import pytest

from support.messages import message
from support.sending import Build, sent
from support.smtp import CUT, HANG, LATE, TAKEN, MailServer
from support.waiting import until
from tocsin.channels.base import Delivered, Retry
from tocsin.errors import Reason

THREE = ["ann@example.com", "bob@example.com", "cy@example.com"]


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
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


@pytest.mark.parametrize("before", [True, False], ids=["before it", "after it"])
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
async def test_late_answer_is_not_used_for_next_mail(
    server: MailServer, build: Build, command: str, before: bool
) -> None:
    """The answer to the first mail comes when its attempt is over; it is a refusal. The next mail goes out before it
    or after it."""
    channel = build(timeout="200ms", concurrency=1)
    server.script(command, LATE + "550 5.7.1 not the first one")
    assert await sent(channel, message(key="late")) == Retry(Reason.TIMEOUT, "no answer within 0.2 s")
    await until(lambda: before or server.late or not server.open, "the late answer, or no one to hear it")
    assert await sent(channel, message(key="after")) == Delivered()
    await until(lambda: server.open == 1, "the first connection is closed")
    assert "after" in server.mails[-1].part("plain")


async def test_timeout_holds_for_the_whole_mail(server: MailServer, build: Build) -> None:
    """Each answer comes in time, all of them together do not; the library counts each on its own."""
    server.pause = 0.2
    began = time.monotonic()
    result = await sent(build(to=[f"p{number}@example.com" for number in range(30)], timeout="1s"))
    assert result == Retry(Reason.TIMEOUT, "no answer within 1 s")
    assert time.monotonic() - began < 3
    assert not server.mails


async def test_421_for_one_recipient_retries_all(server: MailServer, build: Build) -> None:
    """The server closes for all: no recipient has the mail, and the next attempt reaches all three once."""
    server.script("RCPT bob@example.com", "421 4.3.2 shutting down")
    channel = build(to=THREE)
    assert await sent(channel) == Retry(Reason.SERVER_ERROR, "421 4.3.2 shutting down")
    assert not server.mails
    assert await sent(channel) == Delivered()
    assert [mail.recipients for mail in server.mails] == [tuple(THREE)]


async def test_accepted_mail_does_not_wait_for_quit(server: MailServer, build: Build) -> None:
    """A server that never answers QUIT costs the mail nothing, and the end of the channel two seconds."""
    server.script("QUIT", HANG)
    channel = build(idle_timeout="10ms", timeout="1s")
    assert await sent(channel) == Delivered()
    await until(lambda: server.hanging, "the idle connection says good-bye")
    assert await sent(channel, message(key="18")) == Delivered()
    server.script("QUIT", HANG)
    async with asyncio.timeout(10):
        await channel.close()


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
    assert first.parsed["Message-ID"] == second.parsed["Message-ID"]


@pytest.mark.parametrize("text", ["ann@example.com; bob@example.com", "ann@example.com bob@example.com"])
async def test_text_of_two_addresses_is_never_one_recipient(server: MailServer, build: Build, text: str) -> None:
    """By the build of Python, the library would drop the second, or send both in one command."""
    with pytest.raises(ValueError, match="is not a valid mail address"):
        build(to=[text])
    result = await sent(build(to=["cy@example.com", {"column": "who"}]), message(extra={"who": ("text", text)}))
    assert result == Delivered(f"refused: late: to: {text!r} is not a valid mail address")
    assert [mail.recipients for mail in server.mails] == [("cy@example.com",)]


async def test_long_lines_are_never_sent(server: MailServer, build: Build) -> None:
    """A server refuses lines beyond a thousand characters."""
    text = "x" * 5000 + "\n" + "\u00e9" * 5000
    assert await sent(build(text=text, html=f"<p>{text}</p>")) == Delivered()
    [mail] = server.mails
    assert max(map(len, mail.content.splitlines())) < 100
    assert mail.part("plain").strip() == text
