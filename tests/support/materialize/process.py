"""The double in a process of its own, steered from a test or a benchmark."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parents[2]


class RefusedError(Exception):
    """The double did not carry a command out."""


class DoubleProcess:
    """A running process. Commands go one after the other."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, dsn: str) -> None:
        self.port = port
        self.dsn = dsn
        self._process = process
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def do(self, command: str, *args: Any, relation: str | None = None, **named: Any) -> Any:
        """Carry out a command by its name, as in `commands`.

        Raises:
            RefusedError: with the double's own words.
        """
        asked: dict[str, Any] = {"do": command, "args": args, "with": named}
        if relation is not None:
            asked["relation"] = relation
        async with self._turn:
            answer = await _exchange(self._process, json.dumps(asked))
        if not answer["ok"]:
            raise RefusedError(answer["error"])
        return answer["result"]


@asynccontextmanager
async def double_process(*options: str) -> AsyncIterator[DoubleProcess]:
    """Start a double with these command-line options, and end it with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.materialize",
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_TESTS,
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        limit=1 << 26,
    )
    try:
        first = await _read(process)
        yield DoubleProcess(process, first["port"], first["dsn"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _exchange(process: asyncio.subprocess.Process, line: str) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    await process.stdin.drain()
    return await _read(process)


async def _read(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RefusedError(f"the double has ended with {await process.wait()}")
    found: dict[str, Any] = json.loads(line)
    return found
