# ruff: noqa: A005 - named like the channel; never imported as a top-level module
"""Mails to a server on this machine that answers after a millisecond, from the change through the durable outbox;
beside a loop that opens a connection for each mail."""

import asyncio
import smtplib
import tempfile
import time
from email.mime.text import MIMEText
from email.utils import make_msgid
from pathlib import Path

from bench.harness import Arrived, Figure, configuration, running
from support.materialize import MaterializeDouble

BURST = 1_000
PEER = 300
_DELAY = 0.001


class Sink(asyncio.Protocol):
    """A mail server that accepts everything after `_DELAY` seconds, so that the senders are measured."""

    connections = 0

    def __init__(self, arrived: Arrived) -> None:
        self._arrived = arrived
        self._mail: list[bytes] | None = None
        self._rest = b""
        Sink.connections += 1

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
                self._arrived.add(next(one for one in self._mail if one.startswith(b"Message-ID:")).decode())
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


async def measure() -> list[Figure]:
    arrived = Arrived()
    async with await asyncio.get_running_loop().create_server(lambda: Sink(arrived), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        peer = await asyncio.to_thread(_peer, port)
        rate, connections = await _burst(port, arrived)
    return [
        Figure(f"a loop of smtplib, one connection for each of {PEER} mails", f"{peer:,.0f} mails/s"),
        Figure(
            f"mails of a burst of {BURST:,} notifications, durable, first to last arrival",
            f"{rate:,.0f} mails/s over {connections} connections",
            ">= 200 mails/s",
            rate >= 200,
        ),
    ]


def _peer(port: int) -> float:
    began = time.perf_counter()
    for number in range(PEER):
        mail = MIMEText(f'{{"id": {number}}}')
        mail["From"], mail["To"], mail["Subject"] = "a@example.com", "b@example.com", "Alert"
        mail["Message-ID"] = make_msgid(domain="example.com")
        with smtplib.SMTP("127.0.0.1", port, local_hostname="bench") as smtp:
            smtp.send_message(mail)
    return PEER / (time.perf_counter() - began)


async def _burst(port: int, arrived: Arrived) -> tuple[float, int]:
    mail = {"type": "email", "host": "127.0.0.1", "port": port, "security": "none"}
    mail |= {"from": "tocsin@example.com", "to": ["someone@example.com"]}
    async with MaterializeDouble(progress_interval=0.2) as double:
        relation = double.create("public.late", [("id", "text"), ("amount", "numeric")], retain=3_600_000)
        with tempfile.TemporaryDirectory() as name:
            config = configuration(
                Path(name), double.dsn, {"mail": mail}, {"late": ["mail"]}, key=["id"], labels=["id"]
            )
            async with running(Path(name), config) as tocsin:
                await tocsin.until_ready()
                relation.insert(("warm", "1"))
                await arrived.holds(PEER + 1)
                before, connections = time.perf_counter(), Sink.connections
                relation.insert(*((f"burst-{number}", "1") for number in range(BURST)))
                await arrived.holds(PEER + 1 + BURST)
                seconds = time.perf_counter() - before
                assert await tocsin.stop() == 0
    return BURST / seconds, Sink.connections - connections + 1
