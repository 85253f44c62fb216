"""An SMTP server on 127.0.0.1 that accepts or refuses mails by a script, and keeps what it accepted."""

import asyncio
import email
import email.policy
import ssl
import warnings
from collections import defaultdict, deque
from dataclasses import dataclass
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

CUT = "cut"
"""An answer: close the connection instead of answering."""
HANG = "hang"
"""An answer: none, until the server closes."""
LATE = "late: "
"""Before an answer: it comes after half a second."""
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
    """A server for the length of an `async with`. `tls`: the certificate to show, at once or (`starttls`) when asked.
    `password`: the password of every login."""

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
        self.connections = 0
        self.logins = 0
        self.hello = ""
        self.no_auth = False
        self.port = 0
        self.under_way = 0
        self.most_under_way = 0
        self.hanging = 0
        self.late = 0
        self.pause = 0.0
        """Seconds before each answer to `MAIL`, `RCPT`, `DATA` and `QUIT`."""
        self._transports: set[asyncio.BaseTransport] = set()
        self._script: dict[str, deque[str]] = defaultdict(deque)
        self._tls = tls
        self._starttls = starttls
        self._password = password
        self._options: dict[str, Any] = {"enable_SMTPUTF8": utf8, "data_size_limit": size}
        self._server: asyncio.Server | None = None
        self._arrived = asyncio.Condition()
        self._closing = asyncio.Event()

    def script(self, command: str, *answers: str) -> None:
        """Answer the next such commands so: `MAIL`, `DATA`, `AUTH`, `QUIT`, `RCPT`, or `RCPT ann@example.com`."""
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
        loop = asyncio.get_running_loop()
        at_once = self._tls if not self._starttls else None
        self._server = await loop.create_server(self._connect, "127.0.0.1", self.port, ssl=at_once)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
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
            return Connection(
                _Handler(self),
                hostname="mail.test",
                tls_context=self._tls if self._starttls else None,
                require_starttls=self._starttls,
                auth_required=self._password is not None,
                auth_require_tls=self._starttls or self.no_auth,
                authenticator=self._authenticate,
                loop=asyncio.get_running_loop(),
                **self._options,
            )

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        self.logins += 1
        if self._script["AUTH"]:
            return AuthResult(success=False, handled=False, message=self._script["AUTH"].popleft())
        assert isinstance(data, LoginPassword)
        good = self._password is None or data.password == self._password.encode()
        return AuthResult(success=good, handled=False, auth_data=data.login.decode())

    async def answer(self, server: SMTP, command: str, otherwise: str, about: str = "") -> str:
        """The scripted answer to a command, or the usual one."""
        return await self.say(server, self.next(command, about) or otherwise)

    def next(self, command: str, about: str = "") -> str:
        """The scripted answer to a command, empty if there is none."""
        script = self._script[f"{command} {about}"] or self._script[command]
        return script.popleft() if script else ""

    async def say(self, server: SMTP, said: str) -> str:
        """An answer as it is sent."""
        if said == CUT:
            assert server.transport is not None
            server.transport.close()
        if said in (CUT, HANG):
            self.hanging += said == HANG
            await self._closing.wait()
            return "421 closing"
        await asyncio.sleep(0.5 if said.startswith(LATE) else self.pause)
        self.late += said.startswith(LATE)
        return said.removeprefix(LATE)

    async def take(self, session: Session, envelope: Envelope) -> None:
        """Keep a mail."""
        async with self._arrived:
            self.mails.append(
                Mail(
                    sender=envelope.mail_from or "",
                    recipients=tuple(envelope.rcpt_tos),
                    options=tuple(envelope.mail_options),
                    content=cast("bytes", envelope.content),
                    encrypted=session.ssl is not None or (self._tls is not None and not self._starttls),
                    login=cast("str | None", session.auth_data),
                )
            )
            self._arrived.notify_all()


class _Handler:
    """The handler that aiosmtpd calls."""

    def __init__(self, owner: MailServer) -> None:
        self._owner = owner

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = self._owner.hello = hostname
        return responses

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        said = await self._owner.answer(server, "MAIL", "250 OK")
        if said.startswith("250"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return said

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        said = await self._owner.answer(server, "RCPT", "250 OK", address)
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return await self._owner.answer(server, "QUIT", "221 Bye")

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        owner = self._owner
        owner.under_way += 1
        owner.most_under_way = max(owner.most_under_way, owner.under_way)
        try:
            said = owner.next("DATA") or "250 OK"
            if said.startswith(TAKEN):
                await owner.take(session, envelope)
            said = await owner.say(server, said.removeprefix(TAKEN))
        finally:
            owner.under_way -= 1
        if said.startswith("250"):
            await owner.take(session, envelope)
        return said
