"""How the email channel gets on with a mail server on this machine: connections, TLS, logins, refusals."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import structlog.testing
import trustme

from support.messages import message
from support.smtp import CUT, HANG, MailServer
from support.waiting import until
from tocsin.channels import Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.channels import email as channel_email
from tocsin.errors import ConfigError, Reason

PASSWORD = "S3CR3T-and-quite-long"

Build = Callable[..., Any]


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as made:
        yield made


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    made: list[Any] = []

    def make(server: MailServer, **settings: Any) -> Any:
        base = {"from": "alerts@example.com", "to": ["ann@example.com"], "security": "none", "host": "127.0.0.1"}
        config = channel_email.Config.model_validate({"type": "email", "port": server.port, **base, **settings})
        made.append(channel_email.build("mail", config, {"late": config}))
        return made[-1]

    yield make
    for channel in made:
        await channel.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def certificate(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def sent(channel: Any, what: Message | None = None) -> Result:
    [result] = await channel.send([what or message()])
    return result  # type: ignore[no-any-return]


# Connections.


async def test_a_connection_is_kept_for_the_next_mail(server: MailServer, build: Build) -> None:
    channel = build(server)
    for key in "abc":
        assert await sent(channel, message(key=key)) == Delivered()
    assert server.connections == 1


async def test_there_are_never_more_connections_than_concurrency_allows(server: MailServer, build: Build) -> None:
    channel = build(server, concurrency=3)
    results = await channel.send([message(key=str(number)) for number in range(30)])
    assert results == [Delivered()] * 30
    assert server.connections <= 3
    assert server.most_under_way <= 3


async def test_a_connection_that_the_server_dropped_costs_no_attempt(server: MailServer, build: Build) -> None:
    channel = build(server)
    await sent(channel)
    server.hang_up()
    assert await sent(channel, message(key="18")) == Delivered()
    assert server.connections == 2


async def test_after_that_the_new_connection_is_asked_what_the_server_can_do(server: MailServer, build: Build) -> None:
    channel = build(server, **{"from": "zo\u00eb@example.com"})
    await sent(channel)
    server.hang_up()
    await until(lambda: not server.open, "the connection is closed")
    assert await sent(channel, message(key="18")) == Delivered()


@pytest.mark.parametrize("answer", ["421 4.4.2 idle for too long", CUT, HANG])
@pytest.mark.parametrize("command", ["MAIL", "RCPT"])
async def test_a_connection_that_turns_out_to_be_gone_costs_no_attempt(
    server: MailServer, build: Build, answer: str, command: str
) -> None:
    channel = build(server, timeout="1500ms")
    await sent(channel)
    server.script(command, answer)
    assert await sent(channel, message(key="18")) == Delivered()
    assert server.connections == 2
    assert len(server.mails) == 2


async def test_several_connections_that_are_gone_cost_no_attempt(server: MailServer, build: Build) -> None:
    channel = build(server, concurrency=4)
    await channel.send([message(key=str(number)) for number in range(4)])
    server.script("MAIL", *["421 4.3.2 restarting"] * 4)
    assert await sent(channel, message(key="18")) == Delivered()


async def test_a_mail_whose_content_was_on_its_way_is_not_sent_again_at_once(server: MailServer, build: Build) -> None:
    channel = build(server)
    await sent(channel)
    server.script("DATA", CUT)
    result = await sent(channel, message(key="18"))
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert server.connections == 1


async def test_an_idle_connection_is_closed(server: MailServer, build: Build) -> None:
    channel = build(server, idle_timeout="50ms")
    await sent(channel)
    await until(lambda: not server.open, "the connection is closed")
    assert await sent(channel, message(key="18")) == Delivered()


async def test_closing_says_good_bye_on_every_connection(server: MailServer, build: Build) -> None:
    channel = build(server)
    await channel.send([message(key=str(number)) for number in range(4)])
    await channel.close()
    await until(lambda: not server.open, "the connections are closed")


async def test_it_greets_with_the_name_that_is_configured(server: MailServer, build: Build) -> None:
    await sent(build(server, hello="tocsin.example.com"))
    assert server.hello == "tocsin.example.com"


async def test_a_server_that_is_away_is_tried_again_until_it_is_back(build: Build) -> None:
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


async def test_a_server_that_does_not_answer_is_tried_again(server: MailServer, build: Build) -> None:
    server.script("DATA", HANG)
    assert await sent(build(server, timeout="300ms")) == Retry(Reason.TIMEOUT, "no answer within 0.3 s")


async def test_a_connection_given_up_in_the_middle_is_not_used_again(server: MailServer, build: Build) -> None:
    channel = build(server, timeout="300ms")
    server.script("DATA", HANG)
    await sent(channel)
    await until(lambda: not server.open, "the connection is closed")
    assert await sent(channel, message(key="18")) == Delivered()
    assert server.connections == 2


async def _speaks(*lines: bytes) -> asyncio.Server:
    """A server that says these lines, whatever it hears."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line)
            await reader.readline()
        writer.close()

    return await asyncio.start_server(speak, "127.0.0.1", 0)


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
async def test_what_is_no_mail_server_or_refuses_everybody_is_told(
    build: Build, lines: list[bytes], kind: type, reason: Reason
) -> None:
    speaker = await _speaks(*lines)
    async with speaker:
        server = MailServer()
        server.port = speaker.sockets[0].getsockname()[1]
        result = await sent(build(server))
    assert not isinstance(result, Delivered)
    assert (type(result), result.reason) == (kind, reason)
    assert len(result.detail) <= 200
    assert result.detail.isprintable()


# TLS and logins.


async def test_security_none_sends_in_the_clear_even_where_tls_is_offered(authority: trustme.CA, build: Build) -> None:
    async with MailServer() as server:
        assert await sent(build(server, security="none")) == Delivered()
        assert not server.mails[0].encrypted


async def test_security_starttls_encrypts_before_anything_is_told(
    authority: trustme.CA, ca_file: str, build: Build
) -> None:
    async with MailServer(tls=certificate(authority), starttls=True, password=PASSWORD) as server:
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password=PASSWORD)
        assert await sent(channel) == Delivered()
        assert await sent(channel, message(key="18")) == Delivered()
        assert (server.mails[0].encrypted, server.mails[0].login) == (True, "me")
        assert (server.connections, server.logins) == (1, 1)


async def test_security_tls_encrypts_from_the_first_byte(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with MailServer(tls=certificate(authority), password=PASSWORD) as server:
        channel = build(server, security="tls", tls_ca=ca_file, username="me", password=PASSWORD)
        assert await sent(channel) == Delivered()
        assert (server.mails[0].encrypted, server.mails[0].login) == (True, "me")


async def test_starttls_is_never_given_up_for_a_server_that_does_not_offer_it(server: MailServer, build: Build) -> None:
    result = await sent(build(server, security="starttls", username="me", password=PASSWORD))
    assert isinstance(result, Paused)
    assert "STARTTLS" in result.detail
    assert not server.logins


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_that_nobody_vouches_for_or_of_another_name_is_refused_unless_told_otherwise(
    authority: trustme.CA, ca_file: str, build: Build, security: str
) -> None:
    async with MailServer(tls=certificate(authority), starttls=security == "starttls") as server:
        unknown = await sent(build(server, security=security))
        assert isinstance(unknown, Retry)
        assert unknown.reason is Reason.CONNECTION
        assert "certificate" in unknown.detail
        assert await sent(build(server, security=security, tls_verify=False)) == Delivered()
    other = certificate(authority, "another.example.com")
    async with MailServer(tls=other, starttls=security == "starttls") as server:
        wrong = await sent(build(server, security=security, tls_ca=ca_file))
        assert isinstance(wrong, Retry)
        assert "certificate" in wrong.detail


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, build: Build, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        build(MailServer(), security="tls", tls_ca=str(path), port=465)
    [problem] = caught.value.problems
    assert problem.path == "channels.mail.tls_ca"
    assert str(path) in problem.message


@pytest.mark.parametrize(("security", "port"), [("none", 25), ("starttls", 587), ("tls", 465)])
def test_each_way_has_its_port(security: str, port: int) -> None:
    from tocsin.channels.email.settings import DEFAULT_PORTS

    assert DEFAULT_PORTS == {"none": 25, "starttls": 587, "tls": 465}
    assert DEFAULT_PORTS[security] == port  # type: ignore[index]


async def test_a_wrong_password_pauses_the_channel_and_is_not_told(
    authority: trustme.CA, ca_file: str, build: Build
) -> None:
    async with MailServer(tls=certificate(authority), starttls=True, password="another") as server:
        server.script("AUTH", f"535 5.7.8 no: {PASSWORD}")
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password=PASSWORD)
        result = await sent(channel)
        assert isinstance(result, Paused)
        assert result.reason is Reason.UNAUTHORIZED
        assert result.detail.startswith("535")
        assert PASSWORD not in repr((result, channel))
        assert await channel.verify() == [f"the server does not let us in: {result.detail}"]


async def test_a_server_that_hangs_up_after_a_wrong_password_pauses_too(build: Build) -> None:
    speaker = await _speaks(b"220 hi\r\n", b"250-hi\r\n250 AUTH PLAIN LOGIN\r\n", b"535 5.7.8 no\r\n")
    async with speaker:
        server = MailServer()
        server.port = speaker.sockets[0].getsockname()[1]
        result = await sent(build(server, username="me", password=PASSWORD))
    assert result == Paused(Reason.UNAUTHORIZED, "535 5.7.8 no")


async def test_a_password_may_come_from_a_file(
    authority: trustme.CA, ca_file: str, build: Build, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    async with MailServer(tls=certificate(authority), starttls=True, password=PASSWORD) as server:
        file = str(tmp_path / "password")
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password_file=file)
        assert await channel.verify() == []
        assert await sent(channel) == Delivered()


async def test_a_login_that_cannot_be_checked_now_is_tried_again(
    authority: trustme.CA, ca_file: str, build: Build
) -> None:
    async with MailServer(tls=certificate(authority), starttls=True, password=PASSWORD) as server:
        server.script("AUTH", *["454 4.7.0 temporary authentication failure"] * 2)
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password=PASSWORD)
        assert isinstance(await sent(channel), Retry)
        assert await sent(channel) == Delivered()


async def test_a_server_without_logins_pauses_and_says_why(server: MailServer, build: Build) -> None:
    async with MailServer(utf8=False) as server:
        server.no_auth = True
        result = await sent(build(server, username="me", password=PASSWORD))
        assert isinstance(result, Paused)
        assert "no login" in result.detail


async def test_a_server_that_wants_a_login_pauses(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with MailServer(tls=certificate(authority), password=PASSWORD) as server:
        result = await sent(build(server, security="tls", tls_ca=ca_file))
        assert isinstance(result, Paused)
        assert result.detail.startswith("530")


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
async def test_a_refusal_is_told_rightly(
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
async def test_a_refusal_leaves_the_connection_in_use(server: MailServer, build: Build, command: str) -> None:
    server.script(command, "550 5.7.1 no")
    channel = build(server)
    await sent(channel)
    await sent(channel, message(key="18"))
    assert server.connections == 1


@pytest.mark.parametrize("answer", ["552 5.3.4 too big", "552 too big"])
async def test_a_mail_that_the_server_finds_too_large_is_a_dead_letter(
    server: MailServer, build: Build, answer: str
) -> None:
    server.script("MAIL", answer)
    result = await sent(build(server))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TOO_LARGE


async def test_a_mail_above_the_announced_size_is_not_sent_at_all(build: Build) -> None:
    async with MailServer(size=10_000) as server:
        channel = build(server, text="{{ row.note }}")
        result = await sent(channel, message(extra={"note": ("text", "x" * 20_000)}))
        assert isinstance(result, Rejected)
        assert result.reason is Reason.TOO_LARGE
        assert "the server takes 10000" in result.detail
        assert await sent(channel) != result


THREE = ["ann@example.com", "bob@example.com", "cy@example.com"]


async def test_a_refused_recipient_keeps_nothing_from_the_others_and_is_kept_in_the_note(
    server: MailServer, build: Build
) -> None:
    server.script("RCPT bob@example.com", "550 5.1.1 no such user")
    channel = build(server, to=THREE)
    what = message()
    with structlog.testing.capture_logs() as logs:
        result = await sent(channel, what)
    assert result == Delivered("refused: bob@example.com: 550 5.1.1 no such user")
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com")]
    [line] = [line for line in logs if line["event"] == "recipient refused"]
    assert (line["recipient"], line["answer"], line["id"]) == ("bob@example.com", "550 5.1.1 no such user", what.id)


async def test_a_recipient_who_has_to_wait_is_tried_again_alone(server: MailServer, build: Build) -> None:
    server.script("RCPT bob@example.com", "450 4.2.0 greylisted", "450 4.2.0 greylisted")
    channel = build(server, to=THREE)
    waits = Retry(Reason.RATE_LIMITED, "2 of 3 have it; bob@example.com: 450 4.2.0 greylisted")
    assert await sent(channel) == waits
    assert await sent(channel) == waits
    assert await sent(channel) == Delivered()
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com"), ("bob@example.com",)]
    assert len({mail.parsed["Message-ID"] for mail in server.mails}) == 1
    assert server.mails[1].parsed["To"] == ", ".join(THREE)


async def test_of_recipients_who_wait_and_who_are_refused_everybody_is_told_once(
    server: MailServer, build: Build
) -> None:
    server.script("RCPT ann@example.com", "550 5.1.1 no such user")
    server.script("RCPT bob@example.com", "450 4.2.0 later", "550 5.2.1 disabled")
    channel = build(server, to=THREE)
    assert isinstance(await sent(channel), Retry)
    result = await sent(channel)
    assert isinstance(result, Delivered)
    assert result.note == ("refused: ann@example.com: 550 5.1.1 no such user; bob@example.com: 550 5.2.1 disabled")
    assert [mail.recipients for mail in server.mails] == [("cy@example.com",)]


async def test_an_attempt_that_fails_between_forgets_nobody(server: MailServer, build: Build) -> None:
    server.script("RCPT bob@example.com", "450 4.2.0 later")
    channel = build(server, to=THREE)
    assert isinstance(await sent(channel), Retry)
    server.script("DATA", CUT)
    assert isinstance(await sent(channel), Retry)
    assert await sent(channel) == Delivered()
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com"), ("bob@example.com",)]


async def test_when_all_are_refused_it_is_a_dead_letter(server: MailServer, build: Build) -> None:
    server.script("RCPT", *["550 5.1.1 no such user"] * 3)
    result = await sent(build(server, to=THREE))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.REJECTED
    assert "ann@example.com: 550 5.1.1 no such user; bob@example.com: 550" in result.detail
    assert not server.mails


def test_a_missing_library_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, build: Build) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtplib", cast("Any", None))
    for name in ("channel", "server"):
        monkeypatch.delitem(sys.modules, f"tocsin.channels.email.{name}", raising=False)
    with pytest.raises(ConfigError, match=r"install it with: pip install 'tocsin\[email\]'"):
        build(MailServer(), port=25)
