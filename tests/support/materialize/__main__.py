"""The double as a process of its own: ``python -m support.materialize``, with the folder ``tests`` on the path.

It prints one line of JSON with its port and DSN, then answers commands on standard input (see `commands`) until that
ends.
"""

import argparse
import asyncio
import contextlib
import json
import sys

from support.materialize.commands import Commands
from support.materialize.server import MaterializeDouble


async def serve(options: argparse.Namespace) -> None:
    """Serve until standard input ends, or for ever."""
    double = MaterializeDouble(progress_interval=options.progress_interval)
    commands = Commands(double)
    if options.load:
        named = {"rows": options.load, "live": options.live, "retain": options.retain}
        await commands.answer(json.dumps({"do": "load", "args": ["load"], "with": named}))
    port = await double.start(port=options.port)
    print(json.dumps({"port": port, "dsn": double.dsn}), flush=True)
    if options.rate:
        run = {"do": "run", "relation": "load", "args": [options.rate], "with": {"flip": options.flip}}
        await commands.answer(json.dumps(run))
    try:
        if options.forever:
            await asyncio.Event().wait()
        await _converse(commands)
    finally:
        await double.kill()


async def _converse(commands: Commands) -> None:
    reader = asyncio.StreamReader(limit=1 << 26)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with contextlib.closing(transport):
        while line := await reader.readline():
            print(await commands.answer(line.decode()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m support.materialize", description="A double of Materialize.")
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--progress-interval", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument(
        "--load", type=int, default=0, metavar="ROWS", help="serve a relation `load` of so many still rows"
    )
    parser.add_argument("--live", type=int, default=1000, metavar="ROWS", help="rows of it that change")
    parser.add_argument("--retain", type=int, default=60_000, metavar="MS", help="its history")
    parser.add_argument("--rate", type=float, default=0, metavar="N", help="changes a second")
    parser.add_argument("--flip", action="store_true", help="rows come and go, instead of being updated")
    parser.add_argument("--forever", action="store_true", help="do not read commands")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
