"""The demo's output: where everything is and what to try, then a line for each thing that happens.

Only a terminal gets colour and progress; a pipe gets plain lines.
"""

import time
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tocsin_demo.stack.activity import Settled, Transition

PIPE_WIDTH = 100
NARROW = 84

_KINDS = {"fired": "bold red", "updated": "yellow", "resolved": "bold green", "repeated": "magenta"}


class OutputGoneError(Exception):
    """The terminal was closed, or the other end of the pipe."""


class Screen:
    """Writes to a terminal, or to a pipe or file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # rich takes the rest from the terminal and the environment (COLUMNS, NO_COLOR).
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console = Console(file=stream, highlight=False, markup=False, emoji=False, width=PIPE_WIDTH)
        self._progress = False

    def progress(self, text: str) -> None:
        """One line that the next one replaces; on a terminal only.

        Raises:
            OutputGoneError: as do the other methods.
        """
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._write(f"\r\x1b[K  {text} ...")
            self._progress = True

    def clear(self) -> None:
        """Remove the progress line."""
        if self._progress:
            self._write("\r\x1b[K")
            self._progress = False

    def heading(self, text: str) -> None:
        self._print(Text())
        self._print(_indented(Text(text, style="bold")))

    def paragraph(self, text: str, style: str = "") -> None:
        self._print(_indented(Text(text, style=style)))

    def command(self, text: str) -> None:
        """A command for a shell. It is not wrapped, so that it can be copied."""
        self._print(Text(f"    {text}", style="cyan"), soft_wrap=True)

    def places(self, places: Iterable[tuple[str, str, str]]) -> None:
        """A table of names, addresses or files, and descriptions."""
        narrow = self._console.width < NARROW
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=not narrow, overflow="fold")
        for name, where, what in places:
            if narrow:
                table.add_row(name, Text.assemble((where, "cyan"), "\n", (what, "dim")))
            else:
                table.add_row(name, Text(where, style="cyan"), Text(what, style="dim"))
        self._print(_indented(table))

    def line(self, line: Transition | Settled) -> None:
        """Print what happened."""
        if isinstance(line, Transition):
            self._line(line.at, Text(f"{line.kind:<8}", style=_KINDS.get(line.kind, "bold")), _transition(line))
            return
        waited = f"{line.channel}: {line.count} message{'' if line.count == 1 else 's'}"
        if line.reason:
            body = Text(f"{waited}, kept as dead letters: {_plain(line.reason)}")
            self._line(time.time(), Text("given up", style="bold red"), body)
            return
        oldest = "the oldest for" if line.count > 1 else "for"
        body = Text(f"{waited} that had to wait, {oldest} {line.seconds:.0f} s")
        if line.recipients and line.recipients != (line.channel,):
            body.append(f"  → {_plain(', '.join(line.recipients))}", style="green")
        self._line(time.time(), Text("arrived ", style="bold blue"), body)

    def note(self, text: str) -> None:
        """Print something about the demo itself."""
        self._line(time.time(), Text("demo    ", style="bold cyan"), Text(text))

    def _line(self, at: float, kind: Text, body: Text) -> None:
        clock = time.strftime("%H:%M:%S", time.localtime(at))
        start = Text.assemble("  ", (clock, "dim"), "  ", kind, "  ")
        if not self._console.is_terminal:
            # One line each, for programs that read lines.
            self._print(Text.assemble(start, body), soft_wrap=True)
            return
        if self._console.width < NARROW:
            self._print(start)
            self._print(Padding(body, (0, 0, 0, 4)))
            return
        table = Table.grid()
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        table.add_row(start, body)
        self._print(table)

    def _print(self, what: RenderableType, *, soft_wrap: bool = False) -> None:
        with self._console.capture() as captured:
            self._console.print(what, soft_wrap=soft_wrap)
        # Tables are padded with spaces, which have no use in a pipe.
        lines = [line.rstrip(" ") for line in captured.get().split("\n")]
        start = "\r\x1b[K" if self._progress else ""
        self._progress = False
        self._write(start + "\n".join(lines))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # A closed stream is a ValueError.
            raise OutputGoneError from None


def _indented(what: RenderableType) -> Padding:
    return Padding(what, (0, 2, 0, 2))


def _transition(line: Transition) -> Text:
    body = Text(_plain(line.alert), style="bold")
    for name, value in line.labels:
        body.append_text(
            Text.assemble("  ", (f"{_plain(name)}=", "dim"), (_plain(value), "not bold"), style="not bold")
        )
    if line.value:
        was = f" (was {_plain(line.previous)})" if line.previous not in ("", line.value) else ""
        body.append(f"  = {_plain(line.value)}{was}", style="cyan not bold")
    if line.recipients:
        body.append(f"  → {_plain(', '.join(line.recipients))}", style="green not bold")
    if line.pending:
        channels = ", ".join(channel for channel, _ in line.pending)
        reasons = ", ".join(dict.fromkeys(reason for _, reason in line.pending if reason)) or "on the way"
        body.append(f"  waits: {_plain(channels)} ({_plain(reasons)})", style="red not bold")
    return body


def _plain(text: str) -> str:
    """Values come from rows, which must not control the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
