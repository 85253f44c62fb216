"""A real RabbitMQ for tests: one node with its own port mapper, on free ports and in a folder of its own; and what
tests ask of it.

It runs as the user of the tests, without plugins, and has the users below.
"""

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
import trustme
from aio_pika.abc import AbstractIncomingMessage
from yarl import URL

from support.ports import free_port
from support.rabbitmq_packages import programs
from support.shared import guard, shared
from support.waiting import seen, until_some

USER, PASSWORD = "tocsin", "p@ss/w:rd?#%41 &\"'ü"
"""May do everything, in `/` and in `VHOST`."""
GUEST, GUEST_PASSWORD = "onlooker", "0nl00ker-secret"
"""May read and write, but declare nothing."""
VHOST = "teams/a b?c#d%e:é"
QUORUM_VHOST = "quorum by default"
"""A virtual host of RabbitMQ 4, in which a queue without a type is a quorum queue."""

_SOON = 120.0


class RabbitMQ:
    """A broker that can be started, stopped and killed. Its data and ports are kept in `folder`."""

    def __init__(self, folder: Path, version: str | None = None) -> None:
        """Write its configuration. Nothing listens yet. Skips the test where RabbitMQ cannot be had.

        `version`: see `support.rabbitmq_packages.programs`. It refuses transient queues, as 4.3 does by default.
        """
        self._programs = programs(version)
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port, self.tls_port, self._mapper = free_port(), free_port(), free_port()
        self.ca = folder / "ca.pem"
        self._environment = self._prepared(version)

    @property
    def runs(self) -> bool:
        return bool(self._processes)

    def start(self, *guard: str) -> None:
        """Start, and wait until it answers."""
        assert not self.runs
        self._spawn(*guard, self._programs.epmd, "-address", "127.0.0.1", "-port", str(self._mapper))
        seen(lambda: self._listens(self._mapper), "the port mapper listens", _SOON)
        self._spawn(*guard, self._programs.server)
        seen(lambda: self._listens(self.port), "RabbitMQ listens", _SOON)

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._processes[1].send_signal(signal.SIGTERM)
        self._processes[1].wait(timeout=_SOON)
        self.kill()

    def kill(self) -> None:
        """Kill it, if it runs."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the server is the child of a script
            process.wait(timeout=_SOON)
        self._processes.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_processes": []}

    def url(self, user: str = USER, password: str = PASSWORD, vhost: str = "/") -> str:
        return str(
            URL.build(scheme="amqp", host="127.0.0.1", port=self.port, user=user, password=password, path=f"/{vhost}")
        )

    def control(self, *command: str) -> str:
        """Run `rabbitmqctl`, and return what it prints."""
        done = subprocess.run(
            (self._programs.control, "-q", *command),
            env=self._environment,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=_SOON,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _spawn(self, *command: str) -> None:
        own: dict[str, Any] = {"env": self._environment, "cwd": self._folder, "stdin": subprocess.DEVNULL}
        with (self._folder / "output.log").open("ab") as words:
            process = subprocess.Popen(command, **own, stdout=words, stderr=words, start_new_session=True)
        self._processes.append(process)

    def _listens(self, port: int) -> bool:
        said = "".join(path.read_text(encoding="utf-8")[-3000:] for path in self._folder.glob("*.log"))
        assert self._processes[-1].poll() is None, said
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    def _prepared(self, version: str | None) -> Mapping[str, str]:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        certificate = authority.issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(str(self._folder / "server.pem"))
        certificate.private_key_pem.write_to_path(str(self._folder / "key.pem"))
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "vhosts": [
                {"name": "/"},
                {"name": VHOST},
                {"name": QUORUM_VHOST, "default_queue_type": "quorum", "metadata": {"default_queue_type": "quorum"}},
            ],
            "users": [
                {"name": USER, "password": PASSWORD, "tags": "administrator"},
                {"name": GUEST, "password": GUEST_PASSWORD, "tags": ""},
            ],
            "permissions": [
                *({"user": USER, "vhost": name, **everything} for name in ("/", VHOST, QUORUM_VHOST)),
                {"user": GUEST, "vhost": "/", **everything, "configure": "^$"},
            ],
        }
        (self._folder / "definitions.json").write_text(json.dumps(definitions), encoding="utf-8")
        (self._folder / "enabled_plugins").write_text("[].", encoding="utf-8")
        (self._folder / "rabbitmq.conf").write_text(
            "\n".join(
                (
                    f"listeners.tcp.local = 127.0.0.1:{self.port}",
                    f"listeners.ssl.local = 127.0.0.1:{self.tls_port}",
                    f"ssl_options.cacertfile = {self.ca}",
                    f"ssl_options.certfile = {self._folder / 'server.pem'}",
                    f"ssl_options.keyfile = {self._folder / 'key.pem'}",
                    f"load_definitions = {self._folder / 'definitions.json'}",
                    "disk_free_limit.absolute = 1MB",
                    *(("deprecated_features.permit.transient_nonexcl_queues = false",) if version else ()),
                    "",
                )
            ),
            encoding="utf-8",
        )
        return {
            "PATH": self._programs.path,
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),  # where the cookie goes
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_NODENAME": f"tocsin-{uuid.uuid4().hex[:8]}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            # One scheduler without busy waiting: tests share the machine.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }


@contextmanager
def rabbitmq(folder: Path, version: str | None = None) -> Iterator[RabbitMQ]:
    """A broker that is not started yet; it is deleted at the end."""
    broker = RabbitMQ(folder, version)
    try:
        yield broker
    finally:
        broker.kill()


@functools.cache
def shared_rabbitmq(version: str | None = None) -> RabbitMQ:
    """The running broker of a version that all tests share. Each test uses queues of its own."""

    def start(folder: Path) -> RabbitMQ:
        broker = RabbitMQ(folder, version)
        broker.start(*guard())
        return broker

    return shared(f"rabbitmq-{version or 'installed'}", start)


breaks_rabbitmq = pytest.mark.xdist_group("breaks rabbitmq")
"""For the tests that use `breakable_rabbitmq`: one process runs them."""


@functools.cache
def breakable_rabbitmq() -> RabbitMQ:
    """The broker that tests may stop and kill. It may run or not."""
    folder = tempfile.TemporaryDirectory(prefix="tocsin-rabbitmq-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    broker = RabbitMQ(Path(folder.name))
    atexit.register(broker.kill)
    return broker


class Peer:
    """Another application on the broker, which sends messages and inspects queues."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection, channel: aio_pika.abc.AbstractChannel) -> None:
        self.channel = channel
        self._connection = connection

    async def send(self, queue: str, *bodies: Any, exchange: str = "", **properties: Any) -> None:
        """Send messages that survive a restart, by default straight to a queue, and return when the broker has them.
        What is not bytes is sent as JSON."""
        properties = {"delivery_mode": 2, **properties}
        target = await self.channel.get_exchange(exchange, ensure=False) if exchange else self.channel.default_exchange
        for body in bodies:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            await target.publish(aio_pika.Message(raw, **properties), routing_key=queue, mandatory=True)

    async def counts(self, queue: str) -> tuple[int, int]:
        """Return how many messages of a queue are not delivered yet, and how many consumers it has."""
        async with self._connection.channel() as channel:
            found = await channel.declare_queue(queue, passive=True)
            result = found.declaration_result
            return result.message_count or 0, result.consumer_count or 0

    async def until_waiting(self, queue: str, count: int) -> None:
        """Wait until a queue has so many undelivered messages."""

        async def check() -> bool:
            found, _ = await self.counts(queue)
            assert found == count, f"{found} messages wait in {queue}, not {count}"
            return True

        await until_some(check)

    async def taken(self, queue: str, count: int) -> list[AbstractIncomingMessage]:
        """Wait for messages in a queue, and remove them."""
        await self.until_waiting(queue, count)
        found = await self.channel.declare_queue(queue, passive=True)
        messages = [await found.get() for _ in range(count)]
        for message in messages:
            await message.ack()
        return messages


@asynccontextmanager
async def peer(broker: RabbitMQ, vhost: str = "/") -> AsyncIterator[Peer]:
    """An application that is connected during the block."""
    connection = await aio_pika.connect(broker.url(vhost=vhost))
    try:
        channel = await connection.channel(on_return_raises=True)
        yield Peer(connection, channel)
    finally:
        await connection.close()


def new_queue(name: str = "q") -> str:
    """Return a unique name of a queue."""
    return f"{name}-{uuid.uuid4().hex[:8]}"
