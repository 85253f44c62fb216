"""PgBouncer in front of a PostgreSQL server: the one of this machine, 1.18 with Debian 12, or that of a later Debian.

The releases differ: 1.18 knows no prepared statements of its clients, 1.24 passes on more settings.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support import debian_packages
from support.ports import free_port
from support.postgres import Postgres
from support.waiting import seen

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))

SUITES = {"1.24": "trixie", "1.26": "forky"}
"""Release -> the suite of Debian that has it, or a later one."""
VERSIONS = ("1.18", *SUITES)
_PACKAGES = (
    "pgbouncer",
    *("libaudit1", "libc6", "libcap-ng0", "libcap2", "libcares2", "libevent-2.1-7t64", "libgcc-s1", "libldap2"),
    *("libpam0g", "libsasl2-2", "libssl3t64", "libsystemd0", "libzstd1", "zlib1g"),
)


def unpacked(version: str) -> Path:
    """The folder of the unpacked packages of a later release. Skips the test where they cannot be had."""
    return debian_packages.unpacked(
        f"pgbouncer-{version}",
        SUITES[version],
        _PACKAGES,
        lambda new, folder: debian_packages.wrap_program(new / "usr/sbin/pgbouncer", new, folder),
    )


def program(version: str) -> str:
    """The program of a release. Skips the test where it cannot be had."""
    own = shutil.which("pgbouncer", path=_PATH)
    found = str(unpacked(version) / "usr/sbin/pgbouncer") if version in SUITES else own
    if found is None:
        pytest.skip("pgbouncer is not installed")
    shown = subprocess.run((found, "--version"), capture_output=True, text=True, check=True).stdout
    assert _number(shown.split()[1]) >= _number(version), shown
    return found


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


@contextmanager
def pgbouncer(
    server: Postgres, pool_mode: str = "session", size: int = 20, *, version: str = VERSIONS[0], **settings: str
) -> Iterator["Pooler"]:
    """Run PgBouncer with at most `size` connections to the server. Yields what turns a connection string of the server
    into one through it. `settings`: further ones of its configuration.

    It runs as the user of the server, as the server's socket requires.
    """
    runs = program(version)
    target = conninfo_to_dict(server.dsn())
    folder = Path(tempfile.mkdtemp(prefix="tocsin-pgbouncer-"))
    folder.chmod(0o755)
    port = free_port()
    file = folder / "pgbouncer.ini"
    file.write_text(
        f"""
[databases]
* = host={target["host"]} user={target["user"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
default_pool_size = {size}
"""
        + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    as_user = ["-u", Path(str(target["host"])).owner()] if os.getuid() == 0 else []
    pooler = Pooler([runs, *as_user, str(file)], port)
    pooler.start()
    try:
        yield pooler
    finally:
        pooler.stop()
        shutil.rmtree(folder)


class Pooler:
    """A running PgBouncer. Called with a connection string of the server, it returns the one through it."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self._command = command
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, dsn: str) -> str:
        return make_conninfo(dsn, host="127.0.0.1", port=str(self._port))

    def start(self) -> None:
        """Start it, again after `stop`."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        seen(lambda: _open(self._port), "PgBouncer listens")

    def stop(self) -> None:
        """End it at once, and with it all connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
