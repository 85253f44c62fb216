"""Tables of text: fitted to a terminal, plain and uncut in a pipe."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table, or the sentence `empty` where there is nothing to show."""
    if not rows:
        print(empty)
        return
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(headings), *texts]:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in texts:
        # Text, not str: a value is never markup.
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def printable(text: str) -> str:
    """Return text with control characters escaped: a value must not control the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def clock_time(seconds: float) -> str:
    """Return a time in UTC for people."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s"  # beyond every calendar: the time of a constant view
    return moment.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
