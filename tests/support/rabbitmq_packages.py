"""Where the programs of RabbitMQ are: those that this machine has, and RabbitMQ 4.0 from the packages of Debian 13."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import debian_packages
from support.debian_packages import ELF, executables, wrap_program

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
    return debian_packages.unpacked(f"rabbitmq-{VERSION}", SUITE, PACKAGES, _wrap)


def _wrap(new: Path, folder: Path) -> None:
    """Have every program of Erlang start with the C library of its own packages."""
    for program in executables(new / _ERLANG):
        content = program.read_bytes()
        if content.startswith(ELF):
            wrap_program(program, new, folder)
        else:
            # A script, which names the place where the package would have been installed.
            program.write_bytes(content.replace(f"/{_ERLANG}".encode(), str(folder / _ERLANG).encode()))
