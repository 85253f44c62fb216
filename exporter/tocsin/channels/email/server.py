"""The SMTP server: pooled connections, one transaction at a time on each, and what its answers mean."""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import aiosmtplib
from aiosmtplib import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPConnectResponseError,
    SMTPException,
    SMTPHeloError,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from tocsin.channels.base import Delivered, Paused, Rejected, Retry
from tocsin.channels.email.mail import Mail
from tocsin.channels.email.settings import DEFAULT_PORTS, Config
from tocsin.errors import Reason
from tocsin.faults import why_unreachable

T = TypeVar("T")
Failure: TypeAlias = Paused | Rejected | Retry
Outcome: TypeAlias = Mapping[str, Delivered | Failure]
"""The result for each address."""

_QUIT_TIMEOUT = 2.0
"""Seconds for the QUIT command."""

_UNAVAILABLE = 421
_LOGIN = {530, 534, 535, 538}
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_SIZE = {"5.3.4", "5.2.3"}
_NO_UTF8 = "the server takes no addresses that are not ASCII before the @ (SMTPUTF8)"


class Server:
    """Connections to one server. The latest one is used first; idle ones are closed."""

    def __init__(self, config: Config, redact: Callable[[str], str]) -> None:
        self._config = config
        self._port = config.port or DEFAULT_PORTS[config.security]
        self._redact = redact
        self._hello = config.hello
        # A file that is named may be wrong, which is to be known at once. Those of the system are read when needed.
        self._context = None if config.tls_ca is None else _context(config)
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
            async with asyncio.timeout(timeout):  # the library's own timeout is for each answer
                return await work
        except (TimeoutError, SMTPTimeoutError):
            return Retry(Reason.TIMEOUT, f"no answer within {timeout:g} s")
        except SMTPResponseException as error:
            # Before any mail is mentioned, a refusal is about us: every mail would be refused.
            ours = isinstance(error, SMTPAuthenticationError | SMTPConnectResponseError | SMTPHeloError)
            return self._verdict(error.code, error.message, ours=ours)
        except SMTPConnectError as error:
            detail = f"cannot connect to {self._config.host}:{self._port}: {why_unreachable(error)}"
            return Retry(Reason.CONNECTION, self._redact(detail))
        except OSError as error:  # a lost connection
            return Retry(Reason.CONNECTION, self._redact(why_unreachable(error)))
        except SMTPException as error:  # the server offers no TLS, or no login
            return Paused(Reason.UNAUTHORIZED, self._redact(str(error)))

    async def _send(self, mail: Mail, recipients: Sequence[str]) -> Outcome | Failure:
        smtp = await self._connection()
        try:
            outcome = await self._transaction(smtp, mail, recipients)
        except SMTPResponseException:
            self._keep(smtp)
            raise
        except BaseException:
            # An answer may still arrive, which would be taken for the answer to the next command.
            smtp.close()
            raise
        self._keep(smtp)
        return outcome

    async def _transaction(self, smtp: aiosmtplib.SMTP, mail: Mail, recipients: Sequence[str]) -> Outcome | Failure:
        utf8 = smtp.supports_extension("smtputf8")
        content = mail.content(utf8=utf8)
        limit = smtp.esmtp_extensions.get("size", "")
        if limit.isascii() and limit.isdigit() and 0 < int(limit) < len(content):
            return Rejected(Reason.TOO_LARGE, f"the mail has {len(content)} bytes, the server accepts {limit}")
        sender = mail.sender.spec
        if not utf8 and not sender.isascii():
            return self._verdict(553, _NO_UTF8)
        options = [f"SIZE={len(content)}"] if smtp.supports_extension("size") else []
        if utf8 and not all((content.isascii(), sender.isascii(), *map(str.isascii, recipients))):
            options += ["SMTPUTF8", "BODY=8BITMIME"]
        encoding = "utf-8" if utf8 else "ascii"
        await smtp.mail(sender, options=options, encoding=encoding)
        outcome: dict[str, Delivered | Failure] = {}
        for address in recipients:
            if not utf8 and not address.isascii():
                outcome[address] = self._verdict(553, _NO_UTF8)
                continue
            try:
                await smtp.rcpt(address, encoding=encoding)
            except SMTPRecipientRefused as error:
                if error.code == _UNAVAILABLE or error.code in _LOGIN:
                    raise  # it is about all of them
                outcome[address] = self._verdict(error.code, error.message)
            else:
                outcome[address] = Delivered()
        if Delivered() in outcome.values():
            code, text = await smtp.data(content)
            accepted = Delivered(answer=self._redact(f"{code} {text}"))
            outcome = {name: accepted if one == accepted else one for name, one in outcome.items()}
        return outcome

    # Connections.

    async def _connection(self) -> aiosmtplib.SMTP:
        """Return an idle connection that the server has not closed, or open one."""
        while self._idle:
            smtp, timer = self._idle.popitem()
            timer.cancel()
            try:
                # Also ends a transaction that was refused. A silently lost connection must leave time for another one.
                await smtp.rset(timeout=self._config.timeout / 3)
            except (SMTPException, OSError):
                smtp.close()
            except BaseException:
                smtp.close()
                raise
            else:
                return smtp
        return await self._open()

    async def _open(self) -> aiosmtplib.SMTP:
        config = self._config
        if self._context is None:
            self._context = _context(config)
        smtp = aiosmtplib.SMTP(
            hostname=config.host,
            port=self._port,
            local_hostname=self._hello,
            timeout=None,  # one timeout holds for the whole attempt
            use_tls=config.security == "tls",
            start_tls=config.security == "starttls",
            tls_context=self._context,
        )
        try:
            await smtp.connect()
            await smtp.rset()  # says EHLO before it, or HELO
            if config.username is not None and config.password is not None:
                await _login(smtp, config.username, config.password.get_secret_value())
        except BaseException:
            smtp.close()
            raise
        self._hello = smtp.local_hostname  # finding it asks the DNS
        return smtp

    def _keep(self, smtp: aiosmtplib.SMTP) -> None:
        if smtp.is_connected:
            loop = asyncio.get_running_loop()
            self._idle[smtp] = loop.call_later(self._config.idle_timeout, self._retire, smtp)

    def _retire(self, smtp: aiosmtplib.SMTP) -> None:
        self._idle.pop(smtp).cancel()
        task = asyncio.create_task(_quit(smtp))
        self._quitting.add(task)
        task.add_done_callback(self._quitting.discard)

    # Answers.

    def _verdict(self, code: int, text: str, *, ours: bool = False) -> Failure:
        """What an answer means for a mail, or with `ours` for all mails. By RFC 5321 a code from 400 passes, one from
        500 stays."""
        detail = self._redact(f"{code} {text}")
        match = _ENHANCED.match(text)
        enhanced = match[0] if match else ""
        if code >= 500:
            if ours or code in _LOGIN:
                return Paused(Reason.UNAUTHORIZED, detail)
            too_large = enhanced in _SIZE or (code == 552 and not enhanced)
            return Rejected(Reason.TOO_LARGE if too_large else Reason.REJECTED, detail)
        # Greylisting and limits of the rate have no code of their own: 450 and 452 are for them, or the class 4.7.
        limited = code in (450, 452) or enhanced.startswith("4.7.")
        return Retry(Reason.RATE_LIMITED if limited else Reason.SERVER_ERROR, detail)


def _context(config: Config) -> ssl.SSLContext | None:
    """What is asked of the server's certificate. Reading the certificates takes a while. Raises OSError."""
    if config.security == "none":
        return None
    context = ssl.create_default_context(cafile=config.tls_ca)
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _login(smtp: aiosmtplib.SMTP, username: str, password: str) -> None:
    """Log in by the first mechanism that the server accepts: one that hides the password if there is no TLS, else a
    plain one. The library's own `login` forgets the refusal where a server hangs up after it."""
    refusal: SMTPException | None = None
    methods = smtp.supported_auth_methods
    clear = smtp.get_transport_info("sslcontext") is None
    for name in methods if clear else reversed(methods):
        try:
            await getattr(smtp, f"auth_{name.replace('-', '')}")(username, password)
        except SMTPAuthenticationError as error:
            refusal = error
        except SMTPServerDisconnected as error:
            raise refusal or error from None
        else:
            return
    hint = " without TLS; set security" if clear else ""
    raise refusal or SMTPException(f"the server offers no login that Tocsin knows{hint}")


async def _quit(smtp: aiosmtplib.SMTP) -> None:
    with contextlib.suppress(SMTPException, OSError):
        await smtp.quit(timeout=_QUIT_TIMEOUT)
    smtp.close()
