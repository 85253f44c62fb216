"""The double of Materialize as the container `materialized`: it knows the statements of the service `setup`, and views
have the rows that a rehearsal gives them.

Without an argument it serves, on every address of the container. With one, it hands a command (see
`support.materialize.process`) to the double that serves, and prints its answer.
"""

import asyncio
import json
import sys
from pathlib import Path

from support.materialize import MaterializeDouble
from support.materialize.definitions import Defined
from support.materialize.process import Commands
from support.stack_views import VIEWS

SQL_PORTS = (6875, 6877)
DOUBLE_PORT, CONTROL_PORT = 16875, 16800
JOURNAL = Path("/mzdata/statements.jsonl")
"""What was defined outlives the container, as it does with the server."""


async def serve() -> None:
    """Serve for ever."""
    double = MaterializeDouble(progress_interval=1.0)
    Defined(double, VIEWS, JOURNAL)
    commands = Commands(double)
    # The double listens on the loopback address alone, as it should in tests; other containers come by this.
    await double.start(port=DOUBLE_PORT)
    for port in SQL_PORTS:
        await asyncio.start_server(_forward, "0.0.0.0", port)

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await commands.answer((await reader.readline()).decode()) + "\n").encode())
        await writer.drain()
        writer.close()

    await asyncio.start_server(control, "127.0.0.1", CONTROL_PORT)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", DOUBLE_PORT)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, onward_writer))
            group.create_task(_copy(onward_reader, writer))
    except* OSError:
        pass


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    finally:
        target.close()


async def tell(command: str) -> int:
    """Hand a command over; 0 if it was carried out."""
    reader, writer = await asyncio.open_connection("127.0.0.1", CONTROL_PORT)
    writer.write(command.encode() + b"\n")
    answer = (await reader.readline()).decode()
    writer.close()
    print(answer, end="")
    return 0 if json.loads(answer)["ok"] else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(tell(sys.argv[1]) if len(sys.argv) > 1 else serve()))
