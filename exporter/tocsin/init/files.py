"""The files that `tocsin init` writes. None is overwritten unless the user agrees."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tocsin.errors import TocsinError


def in_the_way(files: Mapping[str, str]) -> list[str]:
    """Those that exist with other content."""
    return [name for name, text in files.items() if os.path.lexists(name) and _text(name) != text]


def refuse_to_overwrite(files: Mapping[str, str], agrees: Callable[[str], bool] = lambda _: False) -> None:
    """Raise TocsinError over the first file that exists with other content. `agrees`: asks whether to overwrite it."""
    for name in in_the_way(files):
        if not agrees(name):
            raise TocsinError(f"{name} exists; choose another file with -o, or remove it")


def write(text: str, file: str, secret_files: Mapping[str, str]) -> None:
    """Write a configuration and its secrets, which only the user can read. Raises TocsinError."""
    try:
        for name, secret in secret_files.items():
            _replace(name, secret + "\n", 0o600)
        _replace(file, text, 0o644)
    except OSError as error:
        raise TocsinError(f"cannot write {file} and what is beside it: {error.strerror}") from None


def _replace(name: str, text: str, mode: int) -> None:
    new = f"{name}.new"
    Path(new).unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(new).replace(name)


def _text(name: str) -> str | None:
    try:
        return Path(name).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError):
        return None
