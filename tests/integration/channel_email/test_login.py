"""The email channel against a mail server on this machine: TLS and logins."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.sending import Build, sent
from support.smtp import MailServer, speaking
from tocsin.channels.base import Delivered, Paused, Retry
from tocsin.channels.email.settings import DEFAULT_PORTS
from tocsin.errors import ConfigError, Reason

PASSWORD = "S3CR3T-and-quite-long"
LOGIN = {"username": "me", "password": PASSWORD}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def secured(authority: trustme.CA, security: str = "starttls", name: str = "127.0.0.1", **more: Any) -> MailServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return MailServer(tls=context, starttls=security == "starttls", **more)


async def test_security_none_never_uses_offered_tls(authority: trustme.CA, build: Build) -> None:
    assert DEFAULT_PORTS == {"none": 25, "starttls": 587, "tls": 465}
    async with MailServer() as server:
        assert await sent(build(at=server, security="none")) == Delivered()
        assert not server.mails[0].encrypted


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_tls_encrypts_before_login_and_content(
    authority: trustme.CA, ca_file: str, build: Build, security: str, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    login = {"username": "me", "password_file": str(tmp_path / "password")}
    async with secured(authority, security, password=PASSWORD) as server:
        channel = build(at=server, security=security, tls_ca=ca_file, **login)
        assert await channel.verify() == []
        assert await sent(channel) == Delivered()
        assert (server.mails[0].encrypted, server.mails[0].login) == (True, "me")
        assert (server.connections, server.logins) == (1, 1)


async def test_starttls_is_required_from_the_server(server: MailServer, build: Build) -> None:
    result = await sent(build(security="starttls", **LOGIN))
    assert isinstance(result, Paused)
    assert "STARTTLS" in result.detail
    assert not server.logins


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_untrusted_certificate_is_refused_unless_verification_is_off(
    authority: trustme.CA, ca_file: str, build: Build, security: str
) -> None:
    async with secured(authority, security) as server:
        unknown = await sent(build(at=server, security=security))
        assert isinstance(unknown, Retry)
        assert unknown.reason is Reason.CONNECTION
        assert "certificate" in unknown.detail
        assert await sent(build(at=server, security=security, tls_verify=False)) == Delivered()
    async with secured(authority, security, "another.example.com") as server:
        wrong = await sent(build(at=server, security=security, tls_ca=ca_file))
        assert isinstance(wrong, Retry)
        assert "certificate" in wrong.detail


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_unusable_ca_file_is_refused_at_start(tmp_path: Path, build: Build, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        build(security="tls", tls_ca=str(path), port=465)
    [problem] = caught.value.problems
    assert problem.path == "channels.mail.tls_ca"
    assert str(path) in problem.message


async def test_wrong_password_pauses_channel_and_is_redacted(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with secured(authority, password="another") as server:
        server.script("AUTH", f"535 5.7.8 no: {PASSWORD}")
        channel = build(at=server, security="starttls", tls_ca=ca_file, **LOGIN)
        result = await sent(channel)
        assert isinstance(result, Paused)
        assert result.reason is Reason.UNAUTHORIZED
        assert result.detail.startswith("535")
        assert PASSWORD not in repr((result, channel))
        assert await channel.verify() == [f"cannot log in to the server: {result.detail}"]


async def test_hang_up_after_wrong_password_pauses_channel(build: Build) -> None:
    lines = (b"220 hi\r\n", b"250-hi\r\n250 AUTH PLAIN LOGIN\r\n", b"250 ok\r\n", b"535 5.7.8 no\r\n")
    async with speaking(*lines) as server:
        result = await sent(build(at=server, **LOGIN))
    assert result == Paused(Reason.UNAUTHORIZED, "535 5.7.8 no")


async def test_temporary_login_failure_is_retried(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with secured(authority, password=PASSWORD) as server:
        server.script("AUTH", *["454 4.7.0 temporary authentication failure"] * 2)
        channel = build(at=server, security="starttls", tls_ca=ca_file, **LOGIN)
        assert isinstance(await sent(channel), Retry)
        assert await sent(channel) == Delivered()


async def test_server_without_logins_pauses_with_the_reason(build: Build) -> None:
    async with speaking(b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n") as server:
        result = await sent(build(at=server, **LOGIN))
    assert result == Paused(
        Reason.UNAUTHORIZED, "the server offers no login that Tocsin knows without TLS; set security"
    )


async def test_server_that_requires_login_pauses_channel(authority: trustme.CA, ca_file: str, build: Build) -> None:
    async with secured(authority, "tls", password=PASSWORD) as server:
        result = await sent(build(at=server, security="tls", tls_ca=ca_file))
        assert isinstance(result, Paused)
        assert result.detail.startswith("530")
