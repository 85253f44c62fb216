"""PgBouncer in front of a PostgreSQL server."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.postgres import Postgres
from support.prometheus import free_port
from support.waiting import seen

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))


@contextmanager
def pgbouncer(server: Postgres, pool_mode: str = "session", size: int = 20) -> Iterator[Callable[[str], str]]:
    """Run PgBouncer with at most `size` connections to the server. Yields what turns a connection string of the server
    into one through it.

    It runs as the user of the server, as the server's socket requires. Skips where it is not installed.
    """
    program = shutil.which("pgbouncer", path=_PATH)
    if program is None:
        pytest.skip("pgbouncer is not installed")
    target = conninfo_to_dict(server.dsn())
    folder = Path(tempfile.mkdtemp(prefix="tocsin-pgbouncer-"))
    folder.chmod(0o755)
    port = free_port()
    file = folder / "pgbouncer.ini"
    file.write_text(f"""
[databases]
* = host={target["host"]} user={target["user"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
default_pool_size = {size}
""")
    as_user = ["-u", Path(str(target["host"])).owner()] if os.getuid() == 0 else []
    process = subprocess.Popen([program, *as_user, str(file)], stderr=subprocess.DEVNULL)
    try:
        seen(lambda: _open(port), "PgBouncer listens")
        yield lambda dsn: make_conninfo(dsn, host="127.0.0.1", port=str(port))
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
