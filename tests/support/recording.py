"""`tocsin record` beside a running process, and what `tocsin replay` makes of its file."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.forks import Started
from support.receiver import Received
from support.tocsin import TocsinProcess, command, start, write
from support.waiting import SOON, until
from tocsin.recording.files import NotARecordingError, Recording
from tocsin.recording.lines import Item, State

TOKEN = "0123456789abcdef0123456789abcdef"
SECRET = "S3CR3T-and-quite-long"
Sent = tuple[str, str, str]
"""What was notified: path of the receiver, kind, id."""


@asynccontextmanager
async def recording(tocsin: TocsinProcess, file: Path, *options: str) -> AsyncIterator[Started]:
    """`tocsin record` until the end of the block, then Ctrl-C. It has the state of an alert when the block begins."""
    arguments = ("--url", tocsin.url, "-o", str(file), *options)
    process = await start(file.parent, "record", *arguments, TOCSIN_TOKEN=TOKEN)
    try:
        await recorded(file, lambda item: isinstance(item, State))
        yield process
        process.send_signal(signal.SIGINT)
        await ended(process, 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def recorded(file: Path, wanted: Callable[[Item], bool], count: int = 1) -> None:
    """Wait until so many of these are in the file."""
    await until(lambda: sum(map(wanted, items(file))) >= count, "it is recorded")


async def ended(process: Started, status: int) -> str:
    """Wait for its end, and return what it printed."""
    async with asyncio.timeout(SOON):
        _, errors = await process.communicate()
    assert process.returncode == status, errors
    return errors.decode()


def items(file: Path) -> list[Item]:
    """What is in the file now."""
    try:
        return list(Recording(file).items())
    except NotARecordingError:
        return []


def sent(requests: Sequence[Received]) -> list[Sent]:
    return [(one.path.partition("?")[0][1:], one.json["status"], one.json["id"]) for one in requests]


async def replayed(folder: Path, whole: dict[str, Any], file: Path, *options: str) -> list[Sent]:
    """What `tocsin replay` would send."""
    path = write(folder / "replay.yaml", whole)
    status, output, errors = await command(folder, "replay", str(file), "-c", str(path), "--json", *options)
    assert status == 0, errors
    assert SECRET not in output + errors
    found = [json.loads(line) for line in output.splitlines()]
    return [(one["channel"], one["kind"], one["id"]) for one in found]
