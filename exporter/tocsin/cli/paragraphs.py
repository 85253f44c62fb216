"""Indented text: fitted to a terminal, uncut in a pipe."""

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TypeAlias

from tocsin.cli.tables import printable

Lines: TypeAlias = Iterator[tuple[int, str]]
"""Lines with their indentation."""


def fitted(lines: Lines) -> str:
    """Return the text. A line that is too long for the terminal goes on below, further in."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    return "\n".join(_fitted(indent, printable(text), width) for indent, text in lines)


def _fitted(indent: int, text: str, width: int) -> str:
    if width <= indent + len(text) and width and text.strip():
        deeper = len(text) - len(text.lstrip()) + indent
        return textwrap.fill(text.strip(), width, initial_indent=" " * deeper, subsequent_indent=" " * (deeper + 2))
    return " " * indent + text if text else ""
