"""Questions on a terminal, each with a default."""

import contextlib
import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def ask(question: str, default: str, accept: Callable[[str], T], *, secret: bool = False) -> T:
    """Ask until `accept` takes the answer; it raises ValueError with the reason otherwise. An empty answer is the
    default. Raises KeyboardInterrupt at the end of input, too."""
    prompt = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        try:
            answer = (getpass.getpass(prompt) if secret else input(prompt)).strip() or default
        except EOFError:
            raise KeyboardInterrupt from None
        try:
            return accept(answer)
        except ValueError as error:
            print(f"  {error}")


def edit_lines() -> None:
    """Let lines be edited with the arrow keys, where Python has that."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it is enough


def filled(text: str) -> str:
    """Accept any text but none."""
    if not text:
        raise ValueError("an answer is needed")
    return text


def writable(text: str) -> str:
    """Accept the name of a file in a folder that exists."""
    if not Path(filled(text)).parent.is_dir():
        raise ValueError(f"there is no folder {Path(text).parent}")
    return text


def printable(text: str) -> str:
    """Text of a server, which must not control the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def yes(text: str) -> bool:
    """Accept yes or no."""
    if text.lower() not in ("y", "yes", "n", "no"):
        raise ValueError("answer y or n")
    return text.lower().startswith("y")


def names_of(available: list[str], *, none: bool) -> Callable[[str], tuple[str, ...]]:
    """Accept names from a list, with commas; `-` for none where that is possible. A name with a comma cannot be
    chosen."""

    def accept(text: str) -> tuple[str, ...]:
        if none and text in ("-", ""):
            return ()
        chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        unknown = [name for name in chosen if name not in available]
        if unknown or not chosen:
            raise ValueError(f"no column {', '.join(unknown)}; there are {', '.join(available)}")
        return chosen

    return accept
