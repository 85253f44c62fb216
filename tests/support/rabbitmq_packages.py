"""Where the programs of RabbitMQ are: those that this machine has, and RabbitMQ 4.0 from the packages of Debian 13.

Those packages are fetched once with apt, from where this machine gets its own, and unpacked into the user's cache.
Nothing is installed, and apt keeps its lists of them beside them.
"""

import os
import re
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

SUITE, VERSION = "trixie", "4.0"
PACKAGES = (
    "rabbitmq-server",
    *(
        f"erlang-{name}"
        for name in (
            *("asn1", "base", "crypto", "eldap", "inets", "mnesia", "os-mon", "parsetools", "public-key"),
            *("runtime-tools", "ssl", "syntax-tools", "tools", "xmerl"),
        )
    ),
    # This Erlang wants a later C library than Debian 12 has.
    *("libc6", "libcap2", "libgcc-s1", "libssl3t64", "libstdc++6", "libsystemd0", "libtinfo6", "libzstd1", "zlib1g"),
)
_FETCH_S = 300.0
_SOURCES = Path("/etc/apt")
_RABBIT, _ERLANG = "usr/lib/rabbitmq/bin", "usr/lib/erlang"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The programs of one RabbitMQ, and the PATH on which they find theirs."""

    server: str
    control: str
    epmd: str
    path: str


def programs(version: str | None = None) -> Programs:
    """The programs of a version: that of this machine, or `VERSION`. Skips the test where they cannot be had."""
    if version is None:
        # Debian has the server itself there; the one on its PATH only runs as the user `rabbitmq`.
        path = os.pathsep.join((f"/{_RABBIT}", os.environ.get("PATH", os.defpath)))
        server, epmd = shutil.which("rabbitmq-server", path=path), shutil.which("epmd")
        control = shutil.which("rabbitmqctl", path=path)
        if server is None or epmd is None or control is None:
            pytest.skip("rabbitmq-server is not installed")
        return Programs(server=server, control=control, epmd=epmd, path=os.environ.get("PATH", os.defpath))
    assert version == VERSION
    root = unpacked()
    erlang = root / _ERLANG
    [epmd_of_it] = erlang.glob("erts-*/bin/epmd")
    return Programs(
        server=str(root / _RABBIT / "rabbitmq-server"),
        control=str(root / _RABBIT / "rabbitmqctl"),
        epmd=str(epmd_of_it),
        path=os.pathsep.join((str(erlang / "bin"), os.environ.get("PATH", os.defpath))),
    )


def unpacked() -> Path:
    """The folder of the unpacked packages. Skips the test where they cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tocsin-tests"
    folder = cache / f"rabbitmq-{VERSION}"
    if not folder.is_dir():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            pytest.skip(f"apt-get and dpkg-deb, which would fetch RabbitMQ {VERSION}, are not on the PATH")
        cache.mkdir(parents=True, exist_ok=True)
        # Into a folder beside it, which is renamed when it is whole: another test run may do the same.
        new = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
        try:
            _fetch(new, folder)
            with suppress(OSError):
                new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _fetch(new: Path, folder: Path) -> None:
    """Fetch and unpack into `new`, which is to become `folder`."""
    apt = new / "apt"
    for name in ("lists/partial", "cache/archives/partial", "parts", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "empty").touch()
    for number, (ending, text) in enumerate(_entries()):
        (apt / "parts" / f"{number}.{ending}").write_text(text, encoding="utf-8")
    given = {
        "Dir::Etc::sourcelist": apt / "empty",
        "Dir::Etc::sourceparts": apt / "parts",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
    }
    options = [part for name, value in given.items() for part in ("-o", f"{name}={value}")]
    _run("apt-get", "-qq", *options, "update", cwd=apt)
    _run("apt-get", "-qq", *options, "download", *(f"{name}/{SUITE}" for name in PACKAGES), cwd=apt / "packages")
    for package in (apt / "packages").glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(new), cwd=apt)
    shutil.rmtree(apt)
    _wrap(new, folder)


def _entries() -> Iterator[tuple[str, str]]:
    """This machine's own entries for Debian's archive, with the other suite in them: kind of file, text."""
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    own = re.search(r"^VERSION_CODENAME=\"?(\w+)", release, re.MULTILINE)
    if own is None or not re.search(r"^ID=\"?debian\"?$", release, re.MULTILINE):
        pytest.skip(f"RabbitMQ {VERSION} comes from Debian's packages, and this is not Debian")
    for file in sorted(_SOURCES.glob("sources.list.d/*.sources")):
        for entry in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
            suites = re.search(r"^Suites:(.*)$", entry, re.MULTILINE)
            if suites is not None and own[1] in suites[1].split():
                yield "sources", re.sub(r"^Suites:.*$", f"Suites: {SUITE}", entry, flags=re.MULTILINE) + "\n"
    for file in (_SOURCES / "sources.list", *sorted(_SOURCES.glob("sources.list.d/*.list"))):
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            if re.match(rf"deb\s.*\s{own[1]}\s", line):
                yield "list", re.sub(rf"\s{own[1]}\s", f" {SUITE} ", line) + "\n"


def _wrap(new: Path, folder: Path) -> None:
    """Have every program of Erlang start with the C library of its own packages."""
    [libraries] = new.glob("usr/lib/*-linux-gnu*")
    [loader] = libraries.glob("ld-linux*.so.*")
    within = folder / libraries.relative_to(new)
    for program in (new / _ERLANG).rglob("*"):
        if program.is_symlink() or not program.is_file() or not program.stat().st_mode & stat.S_IXUSR:
            continue
        content = program.read_bytes()
        if not content.startswith(b"\x7fELF"):
            # A script, which names the place where the package would have been installed.
            program.write_bytes(content.replace(f"/{_ERLANG}".encode(), str(folder / _ERLANG).encode()))
            continue
        real = program.with_name(f"{program.name}.elf")
        program.rename(real)
        there = folder / real.relative_to(new)
        program.write_text(
            f'#!/bin/sh\nexec "{within / loader.name}" --library-path "{within}" --argv0 "$0" "{there}" "$@"\n',
            encoding="utf-8",
        )
        program.chmod(0o755)


def _run(*command: str, cwd: Path) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{command[0]} did not fetch RabbitMQ {VERSION} within {_FETCH_S:g} s")
    if done.returncode:
        pytest.skip(f"{command[0]} cannot fetch RabbitMQ {VERSION}: {(done.stdout + done.stderr).strip()[-300:]}")
