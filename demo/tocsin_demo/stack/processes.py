"""The demo's other processes and their directory. None of them outlives the demo, even if it is killed: reaper.py."""

import asyncio
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tocsin_demo.stack.errors import DemoError

_TAIL = 12
_END_TIMEOUT = 10.0
_LONGEST_PATH = 80
"""Of the directory: macOS allows 103 characters for the path of a socket, and PostgreSQL has one in there."""
_REGISTERED = 'echo "$$ $0" >&0; exec "$@" </dev/null'
"""A process sends its pid to the reaper before it becomes the program. Its standard input is the pipe to the reaper."""


class Process:
    """One process. `log`: the file with its output; `stop`: the signal that ends it."""

    def __init__(self, name: str, child: asyncio.subprocess.Process, log: Path, stop: signal.Signals) -> None:
        self.name = name
        self.pid = child.pid
        self.log = log
        self.stop = stop
        self._child = child

    @property
    def status(self) -> int | None:
        """The exit status, or the negative number of a signal. None while it runs."""
        return self._child.returncode

    async def ended(self) -> int:
        """Wait for its end; returns the status."""
        return await self._child.wait()

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        status = self.status or 0
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def last_words(self) -> str:
        """The end of its output."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-_TAIL:])


class Processes:
    """Starts processes. `directory`: for their files, removed after all have ended."""

    def __init__(self, directory: Path, reaper: asyncio.subprocess.Process, registry: int) -> None:
        self.directory = directory
        self._reaper = reaper
        self._registry = registry
        self._running: dict[Process, asyncio.Task[None]] = {}

    async def start(
        self, name: str, *command: str | Path, stop: signal.Signals = signal.SIGTERM, **options: Any
    ) -> Process:
        """Start a program. What goes wrong shows in how it ends.

        Args:
            options: of `subprocess.Popen`.
        """
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            child = await asyncio.create_subprocess_exec(
                *("sh", "-c", _REGISTERED, str(int(stop)), *command),
                stdin=self._registry,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in a terminal reaches the demo only
                **options,
            )
        process = Process(name, child, log, stop)
        self._running[process] = asyncio.create_task(self._forget(process))
        return process

    async def unattended(self) -> None:
        """Wait until the reaper is gone, which it should not be."""
        await self._reaper.wait()

    async def end(self) -> None:
        """End all processes."""
        os.close(self._registry)
        self._registry = -1
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self._reaper.wait()
        except TimeoutError:
            self._reaper.kill()
        for process in self._running:
            if process.status is None:  # the reaper was killed before
                with suppress(ProcessLookupError):
                    os.kill(process.pid, process.stop)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.gather(*self._running.values())
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _forget(self, process: Process) -> None:
        await process.ended()
        with suppress(OSError):
            os.write(self._registry, b"%d 0\n" % process.pid)


def account() -> dict[str, Any]:
    """Options to start PostgreSQL with, which refuses to run as root: it runs as `nobody` then."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}


@asynccontextmanager
async def processes() -> AsyncIterator[Processes]:
    """Processes that end with the block, or with this process.

    Raises:
        DemoError: there is no place for temporary files.
    """
    directory = _temporary_directory()
    reads, writes = os.pipe()
    reaper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py")), str(directory)),
        stdin=reads,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reads)
    running = Processes(directory, reaper, writes)
    try:
        yield running
    finally:
        await running.end()


def _temporary_directory() -> Path:
    try:
        directory = Path(tempfile.mkdtemp(prefix="tocsin-demo-"))
        if len(str(directory)) > _LONGEST_PATH:
            directory.rmdir()
            directory = Path(tempfile.mkdtemp(prefix="tocsin-demo-", dir="/tmp"))
    except OSError:
        raise DemoError("no temporary directory can be made; set TMPDIR to one that can be written") from None
    if owner := account():
        os.chown(directory, owner["user"], owner["group"])
    return directory
