"""Where the programs of RabbitMQ are: those that this machine has, and RabbitMQ 4.0 from the packages of Debian 13.

Those packages are fetched once with apt, from where this machine gets its own, and unpacked into the user's cache.
Nothing is installed, and apt keeps its lists of them beside them.
"""

import os
import platform
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.downloads import cached, run

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
    return cached(f"rabbitmq-{VERSION}", _fetch, "apt-get", "dpkg-deb")


def _fetch(new: Path, folder: Path) -> None:
    apt = new / "apt"
    for name in ("lists/partial", "cache/archives/partial", "parts", "packages"):
        (apt / name).mkdir(parents=True)
    (apt / "empty").touch()
    _write_sources(apt / "parts")
    given = {
        "Dir::Etc::sourcelist": apt / "empty",
        "Dir::Etc::sourceparts": apt / "parts",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
    }
    options = [part for name, value in given.items() for part in ("-o", f"{name}={value}")]
    run("apt-get", "-qq", *options, "update", cwd=apt)
    run("apt-get", "-qq", *options, "download", *(f"{name}/{SUITE}" for name in PACKAGES), cwd=apt / "packages")
    for package in (apt / "packages").glob("*.deb"):
        run("dpkg-deb", "-x", str(package), str(new), cwd=apt)
    shutil.rmtree(apt)
    _wrap(new, folder)


def _write_sources(parts: Path) -> None:
    """Write this machine's own sources of packages, with the other suite in them."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "debian":
        pytest.skip(f"RabbitMQ {VERSION} comes from Debian's packages, and this is not Debian")
    own = Path("/etc/apt")
    for file in (own / "sources.list", *own.glob("sources.list.d/*.list"), *own.glob("sources.list.d/*.sources")):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if release["VERSION_CODENAME"] in text:
            there = re.sub(rf"\b{release['VERSION_CODENAME']}\b", SUITE, text)
            (parts / f"{file.stem}{file.suffix}").write_text(there, encoding="utf-8")


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
