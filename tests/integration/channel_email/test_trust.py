"""TLS and logins of the email channel."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from support.email_channels import email_channel, speaking
from support.messages import message
from support.sending import Build, closing, sent
from support.smtp import MailServer
from tocsin.channels.base import Delivered, Paused, Retry
from tocsin.errors import ConfigError, Reason

PASSWORD = "S3CR3T-and-quite-long"


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    async with closing(email_channel) as build:
        yield build


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


async def test_security_none_never_uses_offered_tls(authority: trustme.CA, build: Build) -> None:
    async with MailServer() as server:
        assert await sent(build(server, security="none")) == Delivered()
        assert not server.mails[0].encrypted


async def test_starttls_encrypts_before_login_and_content(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with MailServer(tls=certificate(authority), starttls=True, password=PASSWORD) as server:
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password=PASSWORD)
        assert await sent(channel) == Delivered()
        assert await sent(channel, message(key="18")) == Delivered()
        assert (server.mails[0].encrypted, server.mails[0].login) == (True, "me")
        assert (server.connections, server.logins) == (1, 1)


async def test_security_tls_encrypts_from_first_byte(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with MailServer(tls=certificate(authority), password=PASSWORD) as server:
        channel = build(server, security="tls", tls_ca=ca_file, username="me", password=PASSWORD)
        assert await sent(channel) == Delivered()
        assert (server.mails[0].encrypted, server.mails[0].login) == (True, "me")


async def test_starttls_is_required_from_the_server(server: MailServer, build: Build) -> None:
    result = await sent(build(server, security="starttls", username="me", password=PASSWORD))
    assert isinstance(result, Paused)
    assert "STARTTLS" in result.detail
    assert not server.logins


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_untrusted_certificate_is_refused_unless_verification_is_off(
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
def test_unusable_ca_file_is_refused_at_start(tmp_path: Path, build: Build, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        build(MailServer(), security="tls", tls_ca=str(path), port=465)
    [problem] = caught.value.problems
    assert problem.path == "channels.mail.tls_ca"
    assert str(path) in problem.message


@pytest.mark.parametrize(("security", "port"), [("none", 25), ("starttls", 587), ("tls", 465)])
def test_each_security_has_its_default_port(security: str, port: int) -> None:
    from tocsin.channels.email.settings import DEFAULT_PORTS

    assert DEFAULT_PORTS == {"none": 25, "starttls": 587, "tls": 465}
    assert DEFAULT_PORTS[security] == port  # type: ignore[index]


async def test_wrong_password_pauses_channel_and_is_redacted(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with MailServer(tls=certificate(authority), starttls=True, password="another") as server:
        server.script("AUTH", f"535 5.7.8 no: {PASSWORD}")
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password=PASSWORD)
        result = await sent(channel)
        assert isinstance(result, Paused)
        assert result.reason is Reason.UNAUTHORIZED
        assert result.detail.startswith("535")
        assert PASSWORD not in repr((result, channel))
        assert await channel.verify() == [f"cannot log in to the server: {result.detail}"]


async def test_hang_up_after_wrong_password_pauses_channel(build: Build) -> None:
    async with speaking(b"220 hi\r\n", b"250-hi\r\n250 AUTH PLAIN LOGIN\r\n", b"535 5.7.8 no\r\n") as server:
        result = await sent(build(server, username="me", password=PASSWORD))
    assert result == Paused(Reason.UNAUTHORIZED, "535 5.7.8 no")


async def test_password_can_come_from_a_file(authority: trustme.CA, ca_file: str, build: Build, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    async with MailServer(tls=certificate(authority), starttls=True, password=PASSWORD) as server:
        file = str(tmp_path / "password")
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password_file=file)
        assert await channel.verify() == []
        assert await sent(channel) == Delivered()


async def test_temporary_login_failure_is_retried(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with MailServer(tls=certificate(authority), starttls=True, password=PASSWORD) as server:
        server.script("AUTH", *["454 4.7.0 temporary authentication failure"] * 2)
        channel = build(server, security="starttls", tls_ca=ca_file, username="me", password=PASSWORD)
        assert isinstance(await sent(channel), Retry)
        assert await sent(channel) == Delivered()


async def test_server_without_logins_pauses_with_the_reason(server: MailServer, build: Build) -> None:
    async with MailServer(utf8=False) as server:
        server.no_auth = True
        result = await sent(build(server, username="me", password=PASSWORD))
        assert isinstance(result, Paused)
        assert "no login" in result.detail


async def test_server_that_requires_login_pauses_channel(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with MailServer(tls=certificate(authority), password=PASSWORD) as server:
        result = await sent(build(server, security="tls", tls_ca=ca_file))
        assert isinstance(result, Paused)
        assert result.detail.startswith("530")
