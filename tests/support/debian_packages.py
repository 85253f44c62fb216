"""Programs of later releases of Debian, for tests: their packages are fetched once with apt, from where this machine
gets its own, and unpacked into the user's cache.

Nothing is installed, and apt keeps its lists of these packages apart from the machine's.
"""

import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from support.downloads import cached, run

ELF = b"\x7fELF"
"""How a file begins that is a program, not a script."""


def unpacked(name: str, suite: str, packages: Sequence[str], wrap: Callable[[Path, Path], None]) -> Path:
    """The folder of the cache with these packages. Skips the test where they cannot be had.

    `wrap`: adapts the programs in a new folder, the first argument, which is renamed to the second.
    """

    def fetch(new: Path, folder: Path) -> None:
        _download(new, name, suite, packages)
        wrap(new, folder)

    return cached(name, fetch, "apt-get", "dpkg-deb")


def wrap_program(program: Path, new: Path, folder: Path) -> None:
    """Have a program start with the libraries that are unpacked beside it: it wants a later C library than this
    machine's."""
    [libraries] = new.glob("usr/lib/*-linux-gnu*")
    [loader] = libraries.glob("ld-linux*.so.*")
    within = folder / libraries.relative_to(new)
    real = program.with_name(f"{program.name}.elf")
    program.rename(real)
    there = folder / real.relative_to(new)
    program.write_text(
        f'#!/bin/sh\nexec "{within / loader.name}" --library-path "{within}" --argv0 "$0" "{there}" "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)


def executables(folder: Path) -> Iterator[Path]:
    """The files in a folder that can be run: programs and scripts."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & stat.S_IXUSR:
            yield file


def _download(new: Path, name: str, suite: str, packages: Sequence[str]) -> None:
    apt = new / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "parts", "packages"):
        (apt / folder).mkdir(parents=True)
    (apt / "empty").touch()
    _write_sources(apt / "parts", name, suite)
    given = {
        "Dir::Etc::sourcelist": apt / "empty",
        "Dir::Etc::sourceparts": apt / "parts",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
    }
    options = [part for option, value in given.items() for part in ("-o", f"{option}={value}")]
    run("apt-get", "-qq", *options, "update", cwd=apt)
    run("apt-get", "-qq", *options, "download", *(f"{package}/{suite}" for package in packages), cwd=apt / "packages")
    for package in (apt / "packages").glob("*.deb"):
        run("dpkg-deb", "-x", str(package), str(new), cwd=apt)
    shutil.rmtree(apt)


def _write_sources(parts: Path, name: str, suite: str) -> None:
    """Write this machine's own sources of packages, with the other suite in them."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        pytest.skip(f"{name} comes from Debian's packages, and this is not Debian")
    own = Path("/etc/apt")
    for file in (own / "sources.list", *own.glob("sources.list.d/*.list"), *own.glob("sources.list.d/*.sources")):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if release["VERSION_CODENAME"] in text:
            there = re.sub(rf"\b{release['VERSION_CODENAME']}\b", suite, text)
            (parts / f"{file.stem}{file.suffix}").write_text(there, encoding="utf-8")
