"""The demo's output: where everything is and what to try, then a line for each thing that happens.

Only a terminal gets colour and progress; a pipe gets plain lines.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tocsin_demo.stack.activity import Delivered, GivenUp, Line, Transition

PIPE_WIDTH = 100
NARROW = 84

_KINDS = {"fired": "bold red", "updated": "yellow", "resolved": "bold green", "repeated": "magenta"}


class OutputGoneError(Exception):
    """The terminal was closed, or the other end of the pipe."""


@dataclass(frozen=True, slots=True)
class Place:
    """Something to open. `where`: an address or a file."""

    name: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Trial:
    """Something to try. `command`: for a shell, if any."""

    what: str
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The first screen. `story`: what happens here; `hints`: remarks."""

    story: str
    places: Sequence[Place]
    trials: Sequence[Trial]
    hints: Sequence[str]


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

    def overview(self, overview: Overview) -> None:
        """Show the first screen."""
        self._print(Text())
        self._print(_indented(Text.assemble(("Tocsin", "bold"), "  rings the bell on rows of a live view")))
        self._print(Text())
        self._print(_indented(Text(overview.story)))
        self._heading("Open")
        self._places(overview.places)
        self._heading("Try")
        for trial in overview.trials:
            self._print(_indented(Text(trial.what)))
            if trial.command:
                # Not wrapped: it is there to be copied.
                self._print(Text(f"    {trial.command}", style="cyan"), soft_wrap=True)
        self._print(Text())
        for hint in overview.hints:
            self._print(_indented(Text(hint, style="dim")))
        self._print(Text())

    def line(self, line: Line) -> None:
        """Print what happened."""
        if isinstance(line, Transition):
            self._line(line.at, Text(f"{line.kind:<8}", style=_KINDS.get(line.kind, "bold")), _transition(line))
        elif isinstance(line, Delivered):
            oldest = "the oldest for" if line.count > 1 else "for"
            body = Text(f"{line.channel}: {_count(line.count)} that had to wait, {oldest} {line.seconds:.0f} s")
            if line.recipients and line.recipients != (line.channel,):
                body.append(f"  → {_plain(', '.join(line.recipients))}", style="green")
            self._line(time.time(), Text("arrived ", style="bold blue"), body)
        elif isinstance(line, GivenUp):
            body = Text(f"{line.channel}: {_count(line.count)}, kept as dead letters: {_plain(line.reason)}")
            self._line(time.time(), Text("given up", style="bold red"), body)

    def note(self, text: str) -> None:
        """Print something about the demo itself."""
        self._line(time.time(), Text("demo    ", style="bold cyan"), Text(text))

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self._print(_indented(Text(text)))

    def _heading(self, text: str) -> None:
        self._print(Text())
        self._print(_indented(Text(text, style="bold")))

    def _places(self, places: Iterable[Place]) -> None:
        narrow = self._console.width < NARROW
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=not narrow, overflow="fold")
        if not narrow:
            table.add_column(overflow="fold")
        for place in places:
            where = Text(place.where, style="cyan")
            if narrow:
                table.add_row(place.name, Text.assemble(where, "\n", (place.what, "dim")))
            else:
                table.add_row(place.name, where, Text(place.what, style="dim"))
        self._print(_indented(table))

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


def _count(number: int) -> str:
    return f"{number} message{'' if number == 1 else 's'}"


def _plain(text: str) -> str:
    """Values come from rows, which must not control the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
