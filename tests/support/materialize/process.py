"""The double in a process of its own, for benchmarks and containers. Commands and answers are lines of JSON.

A command is `{"do": "insert", "relation": "orders", "args": [["1", "Ann"]]}`: a method or property of the double, or
of a relation or load by its name. The answer is `{"ok": true, "result": ...}`, or `{"ok": false, "error": ...}`.
"""

import asyncio
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.materialize.load import Load
from support.materialize.server import MaterializeDouble

_TESTS = Path(__file__).parents[2]
_LIMIT = 1 << 26


class Commands:
    """Carries commands out on a double."""

    def __init__(self, double: MaterializeDouble) -> None:
        self._double = double
        self._loads: dict[str, Load] = {}

    async def answer(self, line: str) -> str:
        """Carry out one command, and return the answer."""
        command: dict[str, Any] = json.loads(line)
        try:
            result = await self._do(command["do"], command.get("relation"), command.get("args", ()))
        except Exception as failure:  # noqa: BLE001 - whatever a command does wrong is its answer
            return json.dumps({"ok": False, "error": repr(failure)})
        return json.dumps({"ok": True, "result": result if isinstance(result, int | str | list) else None})

    async def _do(self, name: str, relation: str | None, arguments: list[Any]) -> object:
        if name == "load":
            self._loads[arguments[0]] = Load(self._double, *arguments)
            return None
        owner = self._double if relation is None else self._loads.get(relation) or self._double.relation(relation)
        member = getattr(owner, name)
        if not callable(member):
            return member
        result = member(*arguments)
        return await result if inspect.isawaitable(result) else result


class DoubleProcess:
    """A running process. Commands go one after the other."""

    def __init__(self, process: asyncio.subprocess.Process, dsn: str) -> None:
        self.dsn = dsn
        self._process = process
        self._turn = asyncio.Lock()

    async def do(self, command: str, *args: Any, relation: str | None = None) -> Any:
        """Carry out a command. Fails with the double's own words."""
        assert self._process.stdin is not None
        asked = {"do": command, "args": args} | ({} if relation is None else {"relation": relation})
        async with self._turn:
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            answer = await _line(self._process)
        assert answer["ok"], answer
        return answer["result"]


@asynccontextmanager
async def double_process(rows: int, *, live: int) -> AsyncIterator[DoubleProcess]:
    """Start a double with a relation `load` (see `Load`), and end it with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.materialize.process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        limit=_LIMIT,
    )
    try:
        double = DoubleProcess(process, (await _line(process))["dsn"])
        await double.do("load", "load", rows, live)
        yield double
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, f"the double has ended with {await process.wait()}"
    found: dict[str, Any] = json.loads(line)
    return found


async def _serve() -> None:
    """Serve, and answer commands until standard input ends."""
    async with MaterializeDouble() as double:
        print(json.dumps({"dsn": double.dsn}), flush=True)
        commands = Commands(double)
        reader = asyncio.StreamReader(limit=_LIMIT)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            print(await commands.answer(line.decode()), flush=True)
        transport.close()


if __name__ == "__main__":
    asyncio.run(_serve())
