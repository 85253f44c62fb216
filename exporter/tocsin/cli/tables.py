"""Tables of text: fitted to a terminal, plain and uncut in a pipe."""

import json
import re
import sys
from collections.abc import Sequence

from tocsin.values import utc_text


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
        shown.add_column(heading, overflow="fold", no_wrap=heading == "id")  # an id in two lines cannot be copied
    for row in texts:
        # Text, not str: a value is never markup.
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)


def cell(value: object) -> str:
    """Return a value of JSON for people: nothing for null, and a number as the page writes it."""
    if value is None or isinstance(value, str):
        return value or ""
    return _number(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _number(value: float) -> str:
    """As `number` in page.js: `7500`, `0.3`, `1e-7`; at most six digits after the point."""
    size = abs(value)
    if value == 0 or 1e-6 <= size < 1e15:
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{value:.0f}" if 1e15 <= size < 1e21 else re.sub("e([+-])0", r"e\1", repr(value))


def printable(text: str) -> str:
    """Return text with control characters escaped: a value must not control the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def clock_time(seconds: float) -> str:
    """Return a time in UTC, as the API and every other command write it."""
    return utc_text(seconds) or f"{seconds:.0f} s"
