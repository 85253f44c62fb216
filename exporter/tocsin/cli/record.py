"""`tocsin record`."""

import json
import os
import signal
import sys
import time
import urllib.parse
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tocsin.cli import Exit
from tocsin.cli.running import Running, running
from tocsin.errors import TocsinError
from tocsin.recording.files import WriteError, Writer
from tocsin.recording.redaction import Redaction

_AGAIN = 1.0
"""Seconds between attempts to reach the process again."""
_SHOWN_EVERY = 1.0
_SILENT = 60.0
"""Seconds without an answer. A quiet process sends an empty line each 15 seconds."""


def command(chosen: Namespace) -> Exit:
    process = running(chosen)
    path = Path(chosen.output or f"tocsin-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl.gz")
    redaction = Redaction(chosen.redact)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    lines = _connected(process, chosen.alert)
    header = next(lines)  # before the file is made: a process or an alert may not be there
    try:
        with open(path, "xb", opener=_for_the_owner) as file:
            writer = Writer(file, {**header, "redacted": list(redaction.columns)})
            print(f"recording {_several(header['alerts'])} into {path}; Ctrl-C ends it", file=sys.stderr, flush=True)
            with suppress(KeyboardInterrupt):
                _record(process, chosen.alert, lines, writer, redaction)
            writer.close()
    except FileExistsError:
        raise TocsinError(f"{path}: exists already; name another file with -o") from None
    except OSError as error:
        why = f"{error.strerror}; what it has until now can be replayed"
        raise TocsinError(f"{path}: cannot be written: {why}") from None
    ended = "\n" if sys.stderr.isatty() else ""
    print(f"{ended}{path}: {_count(writer)}", file=sys.stderr)
    if redaction.unseen:
        names = ", ".join(sorted(redaction.unseen))
        raise TocsinError(f"no row had a column {names}, so nothing was redacted under that name; check the spelling")
    return Exit.OK


def _for_the_owner(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals wait: half of a line would damage the file."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _record(
    process: Running, alerts: list[str], lines: Iterator[dict[str, Any]], writer: Writer, redaction: Redaction
) -> None:
    """Record until the user ends it. A connection that is lost is made again, and the states are recorded again."""
    shown = time.monotonic()
    while True:
        try:
            for line in lines:
                with _uninterrupted():
                    writer.add(redaction.hide(line))
                if sys.stderr.isatty() and time.monotonic() - shown > _SHOWN_EVERY:
                    shown = time.monotonic()
                    print(f"\r\x1b[K{_count(writer)}", end="", file=sys.stderr, flush=True)
            why = "the process ended, or this fell too far behind"
        except WriteError:
            raise
        except (OSError, ValueError) as error:
            why = str(error) or type(error).__name__
        print(f"connection lost: {why}; trying again", file=sys.stderr, flush=True)
        lines = _again(process, alerts)


def _again(process: Running, alerts: list[str]) -> Iterator[dict[str, Any]]:
    while True:
        time.sleep(_AGAIN)
        lines = _connected(process, alerts)
        try:
            next(lines)
        except (TocsinError, OSError, ValueError, StopIteration):
            continue
        print("recording again", file=sys.stderr, flush=True)
        return lines


def _connected(process: Running, alerts: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the header, then the lines. Raises TocsinError for the first."""
    query = f"?{urllib.parse.urlencode({'alert': ','.join(alerts)})}" if alerts else ""
    with process.get(f"/api/v1/recording{query}", timeout=_SILENT) as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def _several(alerts: list[str]) -> str:
    return alerts[0] if len(alerts) == 1 else f"{len(alerts)} alerts"


def _count(writer: Writer) -> str:
    return f"{writer.lines} batches and states, {writer.changes} changes of rows and events"
