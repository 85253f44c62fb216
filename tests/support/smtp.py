"""An SMTP server on 127.0.0.1 that accepts or refuses mails by a script, and keeps what it accepted."""

import asyncio
import email
import email.policy
import ssl
import warnings
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from support.ports import free_port

CUT = "cut"
"""An answer: close the connection instead of answering."""
HANG = "hang"
"""An answer: none, until the server closes."""
LATE = "late: "
"""Before an answer: it comes after 0.6 s."""
TAKEN = "taken, then "
"""Before an answer to `DATA`: the mail is accepted first, with any answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """An accepted mail: sender and recipients of the commands, and its content. `options`: those of MAIL."""

    sender: str
    recipients: tuple[str, ...]
    options: tuple[str, ...]
    content: bytes
    encrypted: bool
    login: str | None

    @property
    def parsed(self) -> EmailMessage:
        return email.message_from_bytes(self.content, policy=email.policy.default)

    def part(self, kind: str) -> str:
        """The text of the part `plain` or `html`."""
        body = self.parsed.get_body((kind,))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")


class MailServer:
    """A server for the length of an `async with`, and the handler that aiosmtpd calls. `tls`: the certificate to show,
    at once or (`starttls`) when asked. `password`: the password of every login. `under_way`: contents that have come
    and are not answered. `hanging`: commands that are never answered."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        starttls: bool = False,
        password: str | None = None,
        utf8: bool = True,
        size: int | None = None,
    ) -> None:
        self.mails: list[Mail] = []
        self.connections = self.logins = self.under_way = self.hanging = 0
        self.port = free_port()
        self.hello = ""
        self._transports: set[asyncio.BaseTransport] = set()
        self._script: dict[str, deque[str]] = defaultdict(deque)
        self._implicit_tls = tls is not None and not starttls
        self._tls = tls
        self._password = password
        self._options: dict[str, Any] = {
            "hostname": "mail.test",
            "enable_SMTPUTF8": utf8,
            "data_size_limit": size,
            "tls_context": tls if starttls else None,
            "require_starttls": starttls,
            "auth_required": password is not None,
            "auth_require_tls": starttls,
            "authenticator": self._authenticate,
        }
        self._arrived = asyncio.Condition()
        self._closing = asyncio.Event()

    def script(self, command: str, *answers: str) -> None:
        """Answer the next such commands so: `MAIL`, `DATA`, `AUTH`, `QUIT`, `RSET`, `RCPT`, or `RCPT a@example.com`."""
        self._script[command].extend(answers)

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._transports)

    async def arrived(self, count: int) -> list[Mail]:
        """Wait for so many mails, and return all."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.mails) >= count)
        return self.mails

    def hang_up(self) -> None:
        """Close every connection without an answer."""
        for transport in list(self._transports):
            transport.close()

    async def __aenter__(self) -> Self:
        tls = self._tls if self._implicit_tls else None
        self._server = await asyncio.get_running_loop().create_server(self._connect, "127.0.0.1", self.port, ssl=tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.close()
        self.hang_up()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    def _connect(self) -> SMTP:
        self.connections += 1
        owner = self

        class Connection(SMTP):
            line_length_limit = 1001

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                owner._transports.add(transport)
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                if self.transport is not None:
                    owner._transports.discard(self.transport)
                super().connection_lost(error)

        with warnings.catch_warnings():
            # aiosmtpd does not know implicit TLS, and warns of logins in clear text.
            warnings.simplefilter("ignore")
            return Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        self.logins += 1
        if self._script["AUTH"]:
            return AuthResult(success=False, handled=False, message=self._script["AUTH"].popleft())
        good = self._password is None or data.password == self._password.encode()
        return AuthResult(success=good, handled=False, auth_data=data.login.decode())

    def _next(self, command: str, about: str = "") -> str:
        script = self._script[f"{command} {about}"] or self._script[command]
        return script.popleft() if script else "250 OK"

    async def _say(self, server: SMTP, said: str) -> str:
        if said == CUT:
            assert server.transport is not None
            server.transport.close()
        if said in (CUT, HANG):
            self.hanging += said == HANG
            await self._closing.wait()
            return "421 closing"
        if said.startswith(LATE):
            await asyncio.sleep(0.6)
        return said.removeprefix(LATE)

    async def _take(self, session: Session, envelope: Envelope) -> None:
        async with self._arrived:
            self.mails.append(
                Mail(
                    sender=envelope.mail_from or "",
                    recipients=tuple(envelope.rcpt_tos),
                    options=tuple(envelope.mail_options),
                    content=cast("bytes", envelope.content),
                    encrypted=session.ssl is not None or self._implicit_tls,
                    login=cast("str | None", session.auth_data),
                )
            )
            self._arrived.notify_all()

    # The names that aiosmtpd looks for.

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = self.hello = hostname
        return responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        said = await self._say(server, self._next("MAIL"))
        if said.startswith("250"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return said

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        said = await self._say(server, self._next("RCPT", address))
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return await self._say(server, self._next("RSET"))

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return (await self._say(server, self._next("QUIT"))).replace("250", "221")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.under_way += 1
        try:
            said = self._next("DATA")
            if said.startswith(TAKEN):
                await self._take(session, envelope)
            said = await self._say(server, said.removeprefix(TAKEN))
        finally:
            self.under_way -= 1
        if said.startswith("250"):
            await self._take(session, envelope)
        return said


@asynccontextmanager
async def speaking(*lines: bytes) -> AsyncIterator[MailServer]:
    """A server that sends these lines, whatever it receives."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in lines:
            writer.write(line)
            await reader.readline()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as speaker:
        server = MailServer()
        server.port = speaker.sockets[0].getsockname()[1]
        yield server
