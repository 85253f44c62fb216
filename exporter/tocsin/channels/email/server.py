"""The SMTP server: pooled connections, one transaction at a time on each, and what its answers mean."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import aiosmtplib
from aiosmtplib import (
    SMTPAuthenticationError,
    SMTPConnectResponseError,
    SMTPException,
    SMTPHeloError,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from tocsin.channels.base import Paused, Rejected, Retry
from tocsin.channels.email.mail import Mail
from tocsin.channels.email.settings import DEFAULT_PORTS, Config
from tocsin.errors import Reason

T = TypeVar("T")
Failure: TypeAlias = Paused | Rejected | Retry

_UNAVAILABLE = 421
_QUIT_TIMEOUT = 2.0
"""Seconds for the QUIT command."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the server: code and text."""

    code: int
    text: str

    @property
    def permanent(self) -> bool:
        """Whether a retry is pointless."""
        return self.code >= 500

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for a mail: who has it, and the server's answer for each of the others."""

    accepted: tuple[str, ...] = ()
    refused: Mapping[str, Answer] = field(default_factory=dict)


class _StaleError(Exception):
    """An idle connection was closed before the mail was sent."""


class Server:
    """Connections to one server. The latest one is used first; idle ones are closed."""

    def __init__(self, config: Config, redact: Callable[[str], str]) -> None:
        self._config = config
        self._redact = redact
        self._hello = config.hello
        self._context = _context(config)
        self._idle: dict[aiosmtplib.SMTP, asyncio.TimerHandle] = {}
        self._quitting: set[asyncio.Task[None]] = set()

    async def send(self, mail: Mail, recipients: Sequence[str]) -> Outcome | Failure:
        """Send a mail to some of its recipients. Returns a Failure if none of them could get it."""
        return await self._attempt(self._send(mail, recipients))

    async def greet(self) -> Failure | None:
        """Connect and log in. Returns why that failed."""
        opened = await self._attempt(self._open())
        if not isinstance(opened, aiosmtplib.SMTP):
            return opened
        self._keep(opened)
        return None

    async def close(self) -> None:
        """Close all connections."""
        for smtp in list(self._idle):
            self._retire(smtp)
        while self._quitting:
            await asyncio.gather(*self._quitting)

    async def _attempt(self, work: Awaitable[T]) -> T | Failure:
        timeout = self._config.timeout
        try:
            async with asyncio.timeout(timeout):
                return await work
        except (TimeoutError, SMTPTimeoutError):
            return Retry(Reason.TIMEOUT, f"no answer within {timeout:g} s")
        except SMTPResponseException as error:
            # Before any mail is mentioned, a refusal is about us: every mail would be refused.
            ours = isinstance(error, SMTPAuthenticationError | SMTPConnectResponseError | SMTPHeloError)
            return self.verdict(Answer(error.code, error.message), ours=ours)
        except OSError as error:  # a lost connection, and certificate errors
            return Retry(Reason.CONNECTION, self._redact(_text(error)))
        except SMTPException as error:  # the server offers no TLS, or no login
            return Paused(Reason.UNAUTHORIZED, self._redact(_text(error)))

    async def _send(self, mail: Mail, recipients: Sequence[str]) -> Outcome | Failure:
        while (smtp := self._kept()) is not None:
            with contextlib.suppress(_StaleError):
                return await self._transaction(smtp, mail, recipients, kept=True)
        return await self._transaction(await self._open(), mail, recipients, kept=False)

    async def _transaction(
        self, smtp: aiosmtplib.SMTP, mail: Mail, recipients: Sequence[str], *, kept: bool
    ) -> Outcome | Failure:
        """Send one mail on one connection, and keep the connection unless an answer may still arrive on it: it would be
        taken for the answer to the next command."""
        clean = False
        try:
            content = mail.content(utf8=smtp.supports_extension("smtputf8"))
            if too_large := _too_large(smtp, content):
                clean = True
                return too_large
            outcome = await self._address(smtp, mail, recipients, content, kept=kept)
            if outcome.accepted:
                await smtp.data(content)
            else:
                await smtp.rset()
            clean = True
            return outcome
        except SMTPResponseException:
            with contextlib.suppress(SMTPException, OSError):
                await smtp.rset()
                clean = True
            raise
        finally:
            if clean and smtp.is_connected:
                self._keep(smtp)
            else:
                smtp.close()

    async def _address(
        self, smtp: aiosmtplib.SMTP, mail: Mail, recipients: Sequence[str], content: bytes, *, kept: bool
    ) -> Outcome:
        """Name sender and recipients. Raises _StaleError where an idle connection is gone: before the content is sent,
        another connection can be used without sending the mail twice."""
        utf8 = smtp.supports_extension("smtputf8")
        options = [f"SIZE={len(content)}"] if smtp.supports_extension("size") else []
        sender = mail.sender.spec
        if not utf8 and not sender.isascii():
            raise SMTPResponseException(553, _NO_UTF8)
        if utf8 and not all((content.isascii(), sender.isascii(), *map(str.isascii, recipients))):
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        encoding = "utf-8" if utf8 else "ascii"
        # A silently lost connection must leave time for another one.
        timeout = self._config.timeout / 3 if kept else None
        accepted: list[str] = []
        refused: dict[str, Answer] = {}
        try:
            await smtp.mail(sender, options=options, encoding=encoding, timeout=timeout)
            for address in recipients:
                if not utf8 and not address.isascii():
                    refused[address] = Answer(553, _NO_UTF8)
                    continue
                try:
                    await smtp.rcpt(address, encoding=encoding, timeout=timeout)
                    accepted.append(address)
                except SMTPRecipientRefused as error:
                    if error.code == _UNAVAILABLE or error.code in _LOGIN:
                        raise
                    refused[address] = Answer(error.code, self._redact(error.message))
        except (SMTPServerDisconnected, SMTPTimeoutError, SMTPResponseException) as error:
            if kept and getattr(error, "code", _UNAVAILABLE) == _UNAVAILABLE:
                raise _StaleError from error
            raise
        return Outcome(tuple(accepted), refused)

    # Connections.

    async def _open(self) -> aiosmtplib.SMTP:
        config = self._config
        smtp = aiosmtplib.SMTP(
            hostname=config.host,
            port=config.port or DEFAULT_PORTS[config.security],
            local_hostname=self._hello,
            timeout=None,  # one timeout holds for the whole attempt
            use_tls=config.security == "tls",
            start_tls=config.security == "starttls",
            tls_context=self._context,
        )
        try:
            await smtp.connect()
            if smtp.is_ehlo_or_helo_needed:
                try:
                    await smtp.ehlo()
                except SMTPHeloError:  # servers from before 1995
                    await smtp.helo()
            if config.username is not None and config.password is not None:
                await _login(smtp, config.username, config.password.get_secret_value())
        except BaseException:
            smtp.close()
            raise
        self._hello = smtp.local_hostname  # finding it asks the DNS
        return smtp

    def _kept(self) -> aiosmtplib.SMTP | None:
        while self._idle:
            smtp, timer = self._idle.popitem()
            timer.cancel()
            if smtp.is_connected:
                return smtp
        return None

    def _keep(self, smtp: aiosmtplib.SMTP) -> None:
        loop = asyncio.get_running_loop()
        self._idle[smtp] = loop.call_later(self._config.idle_timeout, self._retire, smtp)

    def _retire(self, smtp: aiosmtplib.SMTP) -> None:
        self._idle.pop(smtp).cancel()
        task = asyncio.create_task(_quit(smtp))
        self._quitting.add(task)
        task.add_done_callback(self._quitting.discard)

    # Answers.

    def verdict(self, answer: Answer, *, ours: bool = False) -> Failure:
        """What an answer means for a mail, or with `ours` for all mails. By RFC 5321 a code from 400 passes, one from
        500 stays."""
        detail = self._redact(str(answer))
        match = _ENHANCED.match(answer.text)
        enhanced = match[0] if match else ""
        if answer.permanent:
            if ours or answer.code in _LOGIN:
                return Paused(Reason.UNAUTHORIZED, detail)
            too_large = enhanced in _SIZE or (answer.code == 552 and not enhanced)
            return Rejected(Reason.TOO_LARGE if too_large else Reason.REJECTED, detail)
        # Greylisting and limits of the rate have no code of their own: 450 and 452 are for them, or the class 4.7.
        limited = answer.code in (450, 452) or enhanced.startswith("4.7.")
        return Retry(Reason.RATE_LIMITED if limited else Reason.SERVER_ERROR, detail)


_LOGIN = {530, 534, 535, 538}
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_SIZE = {"5.3.4", "5.2.3"}
_NO_UTF8 = "the server takes no addresses that are not ASCII (SMTPUTF8); write the domain in its form xn--"


def _context(config: Config) -> ssl.SSLContext | None:
    """What is asked of the server's certificate. Made once: reading the system's certificates takes a while. Raises
    OSError."""
    if config.security == "none":
        return None
    context = ssl.create_default_context(cafile=config.tls_ca)
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _login(smtp: aiosmtplib.SMTP, username: str, password: str) -> None:
    """Log in by the first mechanism that the server accepts."""
    clear = smtp.get_transport_info("sslcontext") is None
    wanted = ("cram-md5", "plain", "login") if clear else ("plain", "login", "cram-md5")
    offered = [name for name in wanted if name in smtp.server_auth_methods]
    if not offered:
        hint = " without TLS; set security" if clear else ""
        raise SMTPException(f"the server offers no login that Tocsin knows{hint}")
    refusal: SMTPAuthenticationError | None = None
    for name in offered:
        try:
            await getattr(smtp, f"auth_{name.replace('-', '')}")(username, password)
        except SMTPAuthenticationError as error:
            refusal = error
        except SMTPServerDisconnected:  # some hang up after a wrong password
            raise refusal or SMTPServerDisconnected("Connection lost during the login") from None
        else:
            return
    assert refusal is not None
    raise refusal


def _too_large(smtp: aiosmtplib.SMTP, content: bytes) -> Rejected | None:
    limit = smtp.esmtp_extensions.get("size", "")
    if limit.isascii() and limit.isdigit() and 0 < int(limit) < len(content):
        return Rejected(Reason.TOO_LARGE, f"the mail has {len(content)} bytes, the server accepts {limit}")
    return None


async def _quit(smtp: aiosmtplib.SMTP) -> None:
    with contextlib.suppress(SMTPException, OSError):
        await smtp.quit(timeout=_QUIT_TIMEOUT)
    smtp.close()


def _text(error: Exception) -> str:
    for one in (error, error.__cause__):
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"the server's certificate is not valid: {one.verify_message}"
    return str(error) or type(error).__name__
