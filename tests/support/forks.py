"""Start `tocsin` commands quickly: a process that has imported Tocsin forks one for each start.

Each is a process of its own, as with `python -m tocsin`. What it saves are the imports: 0.8 of 0.85 seconds of
processor time.
"""

import array
import asyncio
import atexit
import contextlib
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

_IMPORTED = (
    "aio_pika",
    "anyio._backends._asyncio",
    "certifi",
    "httpcore",
    "novu_py.messages",
    "novu_py.workflows",
    "tocsin.channels.apprise.channel",
    "tocsin.channels.email.channel",
    "tocsin.channels.kafka.channel",
    "tocsin.channels.novu.channel",
    "tocsin.channels.webhook.channel",
    "tocsin.cli.check",
    "tocsin.cli.doctor",
    "tocsin.cli.record",
    "tocsin.cli.replay",
    "tocsin.cli.run",
)


class Forked:
    """A started process; what tests use of `asyncio.subprocess.Process`."""

    def __init__(self, link: tuple[asyncio.StreamReader, asyncio.StreamWriter], pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self.stderr = asyncio.StreamReader(limit=1 << 24), asyncio.StreamReader(limit=1 << 24)
        self._link = link
        self._ended = asyncio.create_task(self._end())

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        output, errors = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return output, errors

    async def _end(self) -> int:
        reader, writer = self._link
        self.returncode = int(await reader.readline())
        writer.close()
        return self.returncode


Started = Forked | asyncio.subprocess.Process


async def fork(directory: Path, *arguments: str, environment: Mapping[str, str]) -> Forked:
    """Start a command in a directory. The caller ends it."""
    ours, theirs = socket.socketpair()
    output, errors = os.pipe(), os.pipe()
    request = json.dumps([str(directory), arguments, dict(environment)]).encode()
    given = [theirs.fileno(), output[1], errors[1]]
    _forker().sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))])
    theirs.close()
    os.close(output[1])
    os.close(errors[1])
    link = await asyncio.open_connection(sock=ours)
    started = Forked(link, int(await link[0].readline()))
    for reader, pipe in ((started.stdout, output[0]), (started.stderr, errors[0])):
        protocol = functools.partial(asyncio.StreamReaderProtocol, reader)
        await asyncio.get_running_loop().connect_read_pipe(protocol, os.fdopen(pipe, "rb", 0))
    return started


@functools.cache
def _forker() -> socket.socket:
    """The socket of the process that forks. It ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = (sys.executable, "-P", __file__, str(theirs.fileno()))
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _serve(requests: socket.socket) -> None:
    """Fork for each request, until there can be no more."""
    from tocsin.registry import CHANNELS, LEVELS, SOURCES

    for module in (*_IMPORTED, *SOURCES.values(), *CHANNELS.values(), *LEVELS.values()):
        import_module(module)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the tests
    while True:
        request, given, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(request, given)
        for number in given:
            os.close(number)


def _watch(request: bytes, given: list[int]) -> None:
    """Start a command, report its process and in the end its status. Never returns."""
    link, output, errors = given
    pid = os.fork()
    if pid == 0:
        os.close(link)
        _run(request, output, errors)
    os.close(output)
    os.close(errors)
    os.write(link, f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(link, f"{status}\n".encode())
    os._exit(0)


def _run(request: bytes, output: int, errors: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    directory, arguments, environment = json.loads(request)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    # The one of the process that forks may be a file, which can be positioned.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the end
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, directory)
    sys.argv = ["tocsin", *arguments]
    from tocsin.cli import main

    sys.exit(main())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
