"""The double of Materialize as the container `materialized`: it knows the statements of the service `setup`, and views
have the rows that a rehearsal gives them.

Without an argument it serves, on every address of the container. With arguments, it hands a command to the double that
serves: `insert` or `delete`, the name of a view, and a row as JSON; or `connections`.
"""

import asyncio
import json
import sys
from pathlib import Path

from support.definitions import Definitions
from support.materialize import MaterializeDouble
from support.stack_views import VIEWS

SQL_PORTS = (6875, 6877)
CONTROL_PORT = 16800
JOURNAL = Path("/mzdata/statements.jsonl")
"""Definitions outlive the container, as with the server."""


async def serve() -> None:
    """Serve for ever."""
    double = MaterializeDouble(progress_interval=1.0)
    Definitions(double, VIEWS, JOURNAL)
    await double.start()
    # The double itself listens on the loopback address alone; other containers connect here.
    for port in SQL_PORTS:
        await asyncio.start_server(double.accept, "0.0.0.0", port)

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command, *arguments = json.loads(await reader.readline())
        if command != "connections":
            view, row = arguments
            getattr(double.relation(view), command)(row)
        writer.write(f"{double.connections}\n".encode())
        await writer.drain()
        writer.close()

    await asyncio.start_server(control, "127.0.0.1", CONTROL_PORT)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def send(*command: object) -> int:
    """Pass a command on; return 0 if it succeeded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", CONTROL_PORT)
    writer.write(json.dumps(command).encode() + b"\n")
    answer = (await reader.readline()).decode()
    writer.close()
    print(answer, end="")
    return 0 if answer else 1


if __name__ == "__main__":
    name, *rows = sys.argv[1:] or ("",)
    sys.exit(asyncio.run(send(name, *rows[:1], *map(json.loads, rows[1:])) if name else serve()))
