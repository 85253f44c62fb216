"""Email channels of the alert `late`, and scripted servers for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.smtp import MailServer
from tocsin.channels import email as channel_email


def email_channel(server: MailServer, **settings: Any) -> Any:
    """A channel to a server; `own`: options of the alert over its own."""
    own = settings.pop("own", {})
    given = {"from": "Tocsin <alerts@example.com>", "to": ["ann@example.com"], **settings}
    at = {"type": "email", "host": "127.0.0.1", "port": server.port, "security": "none"}
    config = channel_email.Config.model_validate({**at, **given})
    names = {field.alias or name for name, field in channel_email.Options.model_fields.items()}
    common = {name: value for name, value in given.items() if name in names}
    options = channel_email.Options.model_validate({**common, **own})
    return channel_email.build("mail", config, {"late": options}, now=lambda: 1_795_242_600.0)


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
