"""The port as `tocsin run` opens it: TLS, logins and limits, in front of a scripted process."""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import aiohttp
import bcrypt
import trustme
import yaml
from aiohttp import web

from support.web import DEAD, FakeProcess
from tocsin.config.sections import WebSettings
from tocsin.exposition import Metrics, Page
from tocsin.web.application import build
from tocsin.web.connections import Connections, Limits
from tocsin.web.port import Port

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
TOKEN, ADMIN_TOKEN = "reading-0123456789", "changing-0123456789"


@cache
def hashed(password: str) -> str:
    """A hash of the lowest cost."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


class Authority:
    """A CA with the certificate of a server on this machine, in files."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.name = name
        self._ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, *names: str) -> dict[str, Any]:
        """Make a certificate of the server; returns `tls_server_config`. An earlier one is replaced."""
        made = self._ca.issue_cert(*(names or ("127.0.0.1", "localhost")))
        for path, blob in (("cert", made.cert_chain_pems[0]), ("key", made.private_key_pem)):
            new = self.folder / f"{self.name}-{path}.new"
            blob.write_to_path(new)
            new.replace(self.folder / f"{self.name}-{path}.pem")
        return {"cert_file": f"{self.name}-cert.pem", "key_file": f"{self.name}-key.pem"}

    def client(self, *names: str) -> Path:
        """Make a certificate of a client; returns the file, which has its key too."""
        file = self.folder / f"{self.name}-client.pem"
        self._ca.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(file)
        return file

    def context(self, client: Path | None = None) -> ssl.SSLContext:
        """What a client needs to trust the server, and to prove itself."""
        context = ssl.create_default_context(cafile=str(self.file))
        if client is not None:
            context.load_cert_chain(client)
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A port that listens. Changes of `file` are noticed within 20 ms."""

    url: str
    port: Port
    process: FakeProcess
    file: Path | None

    def write(self, config: Mapping[str, Any] | str | bytes) -> None:
        """Replace the file atomically."""
        assert self.file is not None
        new = self.file.with_suffix(".new")
        new.write_bytes(encoded(config))
        new.replace(self.file)

    async def get(self, path: str, *, tls: ssl.SSLContext | None = None, **headers: str) -> tuple[int, str]:
        """Status and text of an answer, over a connection of its own."""
        async with self.asked("GET", path, tls=tls, **headers) as response:
            return response.status, await response.text()

    async def connect(self, tls: ssl.SSLContext | None = None, *, read: bool = True) -> Streams:
        """Open a plain connection. Without `read`, hardly anything that arrives is taken from the network."""
        host, number = self.url.partition("://")[2].split(":")
        plain = socket.socket()
        if not read:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (host, int(number)))
        name = host if tls else None
        reader, writer = await asyncio.open_connection(sock=plain, ssl=tls, server_hostname=name, limit=1024)
        if not read:
            cast("asyncio.Transport", writer.transport).pause_reading()
        return reader, writer

    @asynccontextmanager
    async def asked(
        self, method: str, path: str, *, tls: ssl.SSLContext | None = None, **headers: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request. `Accept_Encoding="..."` is the header `Accept-Encoding`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls or True)) as client,
            client.request(method, self.url + path, headers=named) as response,
        ):
            yield response


def basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def encoded(config: Mapping[str, Any] | str | bytes) -> bytes:
    if isinstance(config, bytes):
        return config
    return (config if isinstance(config, str) else yaml.safe_dump(dict(config))).encode()


@asynccontextmanager
async def listening(
    folder: Path,
    file: Mapping[str, Any] | str | None = None,
    limits: Limits | None = None,
    page: Page | None = None,
    **settings: Any,
) -> AsyncIterator[Listening]:
    """Open a port with this `web.config_file` and these settings of `web`."""
    path = folder / "web.yml" if file is not None else None
    if path is not None and file is not None:
        path.write_bytes(encoded(file))
        settings["config_file"] = str(path)
    connections, process = Connections(limits), FakeProcess()
    port = Port(WebSettings(**{"listen": "127.0.0.1:0", **settings}), connections, every=0.02)
    application = build(process, page or Page(Metrics("1.2.3")), guard=port.guard, connections=connections)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.callback(port.guard.close)
        stack.push_async_callback(runner.cleanup)
        stack.push_async_callback(port.close)
        url = await port.open(runner)
        watching = asyncio.create_task(port.watch())
        stack.callback(watching.cancel)
        yield Listening(url=url, port=port, process=process, file=path)
        assert not watching.done(), watching


USERS = {"basic_auth_users": {"ann": hashed("annual rings"), "bob": hashed("bobbing")}}
ANN, BOB = basic("ann", "annual rings"), basic("bob", "bobbing")
TOKENS: dict[str, Any] = {"tokens": {"grafana": {"token": TOKEN}, "deploy": {"token": ADMIN_TOKEN, "role": "admin"}}}
RETRY = f"/api/v1/notifications/{DEAD.id}/retry"
