# ruff: noqa: A005 - named like the channel; never imported as a top-level module
"""Mails to a server on this machine that answers after a millisecond, from the change through the durable outbox;
beside a loop that opens a connection for each mail."""

import asyncio
import smtplib
import tempfile
import time
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

from bench.report import Figure
from support.materialize import MaterializeDouble
from support.tocsin import running

BURST = 1_000
PEER = 300
_DELAY = 0.001


class Sink(asyncio.Protocol):
    """A mail server that accepts everything after `_DELAY` seconds, so that the senders are measured."""

    def __init__(self, received: "Received") -> None:
        self._received = received
        self._mail: list[bytes] | None = None
        self._rest = b""
        received.connections += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._say(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            if self._mail is None:
                self._say(self._answer(line[:4].upper()))
            elif line == b".":
                self._received.add(self._mail)
                self._mail = None
                self._say(b"250 ok\r\n")
            else:
                self._mail.append(line)

    def _say(self, line: bytes) -> None:
        asyncio.get_running_loop().call_later(_DELAY, self._transport.write, line)

    def _answer(self, command: bytes) -> bytes:
        if command == b"DATA":
            self._mail = []
            return b"354 go on\r\n"
        return b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n"


class Received:
    """The mails that the sink has."""

    def __init__(self) -> None:
        self.connections = 0
        self.ids: set[bytes] = set()
        self.mails = 0
        self._changed = asyncio.Event()

    def add(self, mail: list[bytes]) -> None:
        self.mails += 1
        self.ids |= {line for line in mail if line.startswith(b"Message-ID:")}
        self._changed.set()

    async def holds(self, count: int) -> None:
        """Wait until so many mails are there."""
        async with asyncio.timeout(60):
            while self.mails < count:
                self._changed.clear()
                await self._changed.wait()


async def measure() -> list[Figure]:
    received = Received()
    server = await asyncio.get_running_loop().create_server(lambda: Sink(received), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        peer = await _peer(port, received)
        rate, connections = await _burst(port, received)
    return [
        Figure(name=f"a loop of smtplib, one connection for each of {PEER} mails", measured=f"{peer:,.0f} mails/s"),
        Figure(
            name=f"mails of a burst of {BURST:,} notifications, durable, first to last arrival",
            measured=f"{rate:,.0f} mails/s over {connections} connections",
            target=">= 200 mails/s",
            met=rate >= 200,
        ),
    ]


async def _peer(port: int, received: Received) -> float:
    def send() -> float:
        began = time.perf_counter()
        for number in range(PEER):
            mail = MIMEText(f'{{"id": {number}}}')
            mail["From"], mail["To"], mail["Subject"] = "a@example.com", "b@example.com", "Alert"
            with smtplib.SMTP("127.0.0.1", port, local_hostname="bench") as smtp:
                smtp.send_message(mail)
        return time.perf_counter() - began

    seconds = await asyncio.to_thread(send)
    assert received.mails == PEER
    return PEER / seconds


async def _burst(port: int, received: Received) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as name:
        async with MaterializeDouble(progress_interval=0.2) as double:
            relation = double.create("public.late", [("id", "text"), ("amount", "numeric")], retain=3_600_000)
            async with running(Path(name), _config(Path(name), double.dsn, port)) as tocsin:
                await tocsin.until_ready()
                relation.insert(("warm", "1"))
                await received.holds(PEER + 1)
                before, connections = time.perf_counter(), received.connections
                relation.insert(*((f"burst-{number}", "1") for number in range(BURST)))
                await received.holds(PEER + 1 + BURST)
                seconds = time.perf_counter() - before
                assert await tocsin.stop() == 0
    assert len(received.ids) == BURST + 1
    return BURST / seconds, received.connections - connections + 1


def _config(directory: Path, dsn: str, port: int) -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(directory / "ledger.db")},
        "sources": {"mz": {"type": "materialize", "dsn": dsn}},
        "channels": {
            "mail": {
                "type": "email",
                "host": "127.0.0.1",
                "port": port,
                "security": "none",
                "from": "tocsin@example.com",
                "to": ["someone@example.com"],
            }
        },
        "alerts": {
            "late": {
                "source": "mz",
                "relation": "public.late",
                "key": ["id"],
                "labels": ["id"],
                "notify": ["mail"],
            }
        },
    }
