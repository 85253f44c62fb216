"""The demo's other processes, by way of the warden."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tocsin_demo.stack.errors import DemoError

_TAIL = 12
_END_TIMEOUT = 10.0


class Process:
    """One process. `log`: the file with all that it says."""

    def __init__(self, name: str, pid: int, log: Path) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        self.status: int | None = None
        """How it ended: the exit code, or the negative number of a signal. None while it runs."""
        self._ended = asyncio.Event()

    async def ended(self) -> int:
        """Wait for its end; returns the status."""
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def end(self, status: int) -> None:
        """Note that it ended."""
        self.status = status
        self._ended.set()

    def last_words(self) -> str:
        """The end of its log, indented."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-_TAIL:])


def told(status: int) -> str:
    """A status in words: `ended with status 4`, `was ended by SIGKILL`."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


class Processes:
    """Starts and stops processes. `directory`: a temporary one for their files, removed after all have ended."""

    def __init__(self, warden: asyncio.subprocess.Process, directory: Path) -> None:
        self.directory = directory
        self.lost = asyncio.Event()
        """Set when the warden has gone, and nobody looks after the processes."""
        self._warden = warden
        self._running: dict[str, Process] = {}
        self._starting: dict[str, asyncio.Future[Any]] = {}

    async def start(self, name: str, *command: str | Path, **environment: str) -> Process:
        """Start a program.

        Raises:
            DemoError: it cannot be started at all. What goes wrong later shows in how it ends.
        """
        log = self.directory / f"{name}.log"
        answer = self._starting[name] = asyncio.get_running_loop().create_future()
        texts = [str(part) for part in command]
        self._say(start=name, command=texts, log=str(log), environment=environment)
        said = await answer
        if "error" in said:
            raise DemoError(f"{texts[0]} does not start: {said['error']}")
        return self._running[name]

    async def stop(self, process: Process) -> None:
        """Ask it to end, wait until it has, and insist after some seconds."""
        if process.status is None and not self.lost.is_set():
            self._say(stop=process.name)
            await process.ended()

    def _say(self, **message: object) -> None:
        assert self._warden.stdin is not None
        self._warden.stdin.write(json.dumps(message).encode() + b"\n")

    async def listen(self) -> None:
        """Take in what the warden says, until it ends."""
        assert self._warden.stdout is not None
        async for line in self._warden.stdout:
            self._take(json.loads(line))
        self.lost.set()
        for answer in self._starting.values():
            if not answer.done():
                answer.set_result({"error": "the demo's warden has ended"})
        for process in self._running.values():
            if process.status is None:
                with contextlib.suppress(OSError):
                    os.kill(process.pid, signal.SIGTERM)

    def _take(self, said: Mapping[str, Any]) -> None:
        if "ended" in said:
            self._running[said["ended"]].end(said["status"])
            return
        name = said.get("started") or said["refused"]
        if "pid" in said:
            self._running[name] = Process(name, said["pid"], self.directory / f"{name}.log")
        self._starting[name].set_result(said)


@asynccontextmanager
async def processes() -> AsyncIterator[Processes]:
    """The demo's processes, and their directory. All is gone at the end of the block, and soon after when this process
    ends in whatever way, SIGKILL included.

    Raises:
        DemoError: there is no place for temporary files.
    """
    # In a session of its own: Ctrl-C and the end of a terminal go to whole groups of processes.
    warden = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(Path(__file__).with_name("warden.py"))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert warden.stdin is not None
    assert warden.stdout is not None
    first = await warden.stdout.readline()
    if not first:
        raise DemoError("no temporary directory can be made; set TMPDIR to one that can be written")
    running = Processes(warden, Path(json.loads(first)["directory"]))
    listening = asyncio.create_task(running.listen())
    try:
        yield running
    finally:
        warden.stdin.close()
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await listening
                await warden.wait()
        except TimeoutError:
            warden.kill()
        # The warden's task, if it was not killed.
        shutil.rmtree(running.directory, ignore_errors=True)
