"""`tocsin replay`."""

import asyncio
import json
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tocsin.app import logs
from tocsin.channels.base import Rejected
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration, warn
from tocsin.cli.tables import clock_time, printable
from tocsin.config import Config
from tocsin.config.sections import LogSettings
from tocsin.errors import TocsinError
from tocsin.recording.files import Recording
from tocsin.replay.dry import dry
from tocsin.replay.feeds import recorded
from tocsin.replay.sending import send, summary
from tocsin.simulation.engine import only
from tocsin.simulation.receivers import Attempt


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    warn(config)
    recording = Recording(Path(chosen.file))
    if recording.cut_off:
        print(f"{chosen.file} was cut off; it is read to its last whole line", file=sys.stderr)
    found, missing = recorded(config, recording.overview, chosen.alert)
    if missing:
        print(f"the recording has nothing of: {', '.join(missing)}", file=sys.stderr)
    config = only(config, found)
    chosen.speed = chosen.speed or (1.0 if chosen.send else float("inf"))
    logs.configure(LogSettings(level="warning" if chosen.send else "error"))
    with tempfile.TemporaryDirectory(prefix="tocsin-") as folder:
        if chosen.send:
            return _send(config, Path(folder), recording, chosen)
        return _dry(config, Path(folder), recording, chosen)


def _dry(config: Config, folder: Path, recording: Recording, chosen: Namespace) -> Exit:
    counts: Counter[str] = Counter()
    start = recording.overview.start

    def show(attempt: Attempt) -> None:
        counts[attempt.channel] += 1
        print(_json(attempt, start) if chosen.json else _text(attempt, start), flush=True)

    faults = dry(config, folder, recording, show=show, pace=_pace(chosen.speed))
    for fault in faults:
        print(printable(fault), file=sys.stderr)
    sent = ", ".join(f"{count} to {channel}" for channel, count in counts.items())
    length = f"{recording.overview.end - start:.0f} s, from {clock_time(start)}"
    print(f"{length}: {sent or 'nothing'} would be sent", file=sys.stderr)
    return Exit.FAILED if faults else Exit.OK


def _pace(speed: float) -> Callable[[float], None]:
    def wait(seconds: float) -> None:
        time.sleep(max(seconds / speed, 0.0))

    return wait


def _json(attempt: Attempt, start: float) -> str:
    rejected = attempt.result if isinstance(attempt.result, Rejected) else None
    return json.dumps(
        {
            "at": clock_time(start + attempt.at),
            "channel": attempt.channel,
            "alert": attempt.alert,
            "kind": attempt.kind.value,
            "id": attempt.id,
            "request": attempt.request,
            "rejected": f"{rejected.reason}: {rejected.detail}" if rejected else None,
        },
        ensure_ascii=False,
        default=str,
    )


def _text(attempt: Attempt, start: float) -> str:
    place = f"{attempt.alert} to {attempt.channel}"
    line = f"{clock_time(start + attempt.at)}  {attempt.kind.value:<8}  {place}  {attempt.id}"
    if isinstance(attempt.result, Rejected):
        return printable(f"{line}  never sent: {attempt.result.reason}: {attempt.result.detail}")
    request = json.dumps(attempt.request, indent=2, ensure_ascii=False, default=str)
    return "\n".join([printable(line), *(f"  {printable(part)}" for part in request.splitlines())])


def _send(config: Config, folder: Path, recording: Recording, chosen: Namespace) -> Exit:
    if not config.channels:
        raise TocsinError("these alerts notify no channel")
    if not chosen.yes:
        names = ", ".join(config.channels)
        if not sys.stdin.isatty():
            raise TocsinError(f"--send sends to {names}; add --yes where no one can be asked")
        print(f"Send what {', '.join(config.alerts)} made of it to {names}? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return Exit.INTERRUPTED
    records = asyncio.run(send(config, folder, recording, chosen.speed))
    counts = summary(records)
    for (channel, status), count in counts.items():
        print(f"{channel}: {count} {status}")
    for one in records:
        if one.reason:
            print(printable(f"{one.alert} to {one.channel}: {one.reason}: {one.detail}"), file=sys.stderr)
    if not records:
        print("nothing was sent")
    return Exit.OK if all(status == "delivered" for _, status in counts) else Exit.FAILED
