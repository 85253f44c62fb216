"""`materialize/setup.py` as a command: its queries, options, messages and exit status."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping

import psycopg
import pytest

from setup import PREFIX, Setup, Waiting, connect
from sql_plan import DIRECTORY
from support.definitions import RETENTION, Definitions
from support.materialize import MaterializeDouble
from support.postgres import Postgres
from support.setup_server import DEFAULTS
from support.stack_views import VIEWS

SCRIPT = (sys.executable, str(DIRECTORY / "setup.py"))
CATALOG = """
CREATE SCHEMA mz_catalog; CREATE SCHEMA mz_internal;
CREATE TABLE mz_catalog.mz_databases (id text, name text);
CREATE TABLE mz_catalog.mz_schemas (id text, database_id text, name text);
CREATE TABLE mz_catalog.mz_objects (id text, schema_id text, name text, type text);
CREATE TABLE mz_catalog.mz_clusters (id text, name text);
CREATE TABLE mz_catalog.mz_roles (id text, name text);
CREATE TABLE mz_internal.mz_comments (id text, object_type text, object_sub_id int, comment text);
INSERT INTO mz_catalog.mz_databases VALUES ('u1', 'setup'), ('u2', 'other');
INSERT INTO mz_catalog.mz_schemas VALUES
  ('u1', 'u1', 'demo'), ('u2', 'u2', 'demo'), ('u3', 'u1', 'else'), ('u4', 'u2', 'far');
INSERT INTO mz_catalog.mz_objects VALUES
  ('u1', 'u1', 'v', 'view'), ('u2', 'u1', 'm', 'materialized-view'),
  ('u3', 'u2', 'w', 'view'), ('u4', 'u3', 'x', 'view');
INSERT INTO mz_catalog.mz_clusters VALUES ('u1', 'alerting');
INSERT INTO mz_catalog.mz_roles VALUES ('u1', 'tocsin');
INSERT INTO mz_internal.mz_comments VALUES
  ('u1', 'cluster', NULL, 'a cluster'), ('u1', 'view', 2, 'a column'), ('u1', 'view', NULL, 'a view');
"""


@pytest.fixture
def database(server: Postgres) -> str:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS setup WITH (FORCE)")
        admin.execute("CREATE DATABASE setup")
    return server.dsn("setup", port="5432")


def test_catalog_is_that_of_the_schema(database: str) -> None:
    """Neither another schema, nor another database, nor the comment of another type with the same id."""
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(CATALOG)
    waiting = Waiting(0)
    with connect(database, waiting) as connection:
        run = Setup([], "demo", lambda: connection, waiting, check=True)
        assert run._catalog(connection) == (
            {"alerting", "tocsin"},
            {"v": ("view", "a view"), "m": ("materialized-view", None)},
        )


def command(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "PG"))}
    return subprocess.run(
        [*SCRIPT, *arguments], env=clean | dict(environ or {}), capture_output=True, text=True, timeout=60, cwd="/"
    )


def test_help_lists_every_variable() -> None:
    shown = command("--help")
    assert shown.returncode == 0
    assert all(f"--{name.replace('_', '-')}" in shown.stdout for name in DEFAULTS)


def test_options_come_from_the_environment() -> None:
    """An empty variable counts as unset. A server that does not answer in time ends with 1, in one line."""
    given = {"DSN": "host=127.0.0.1 port=1 password=hunter2", "TIMEOUT": "0s", "BROKER": "", "SYSTEM_DSN": ""}
    ended = command(environ={f"{PREFIX}{name}": value for name, value in given.items()})
    assert ended.returncode == 1
    assert ended.stderr.startswith("setup: gave up waiting for Materialize at 127.0.0.1:1")
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dsn", "host=x pass word=hunter2"],
        ["--dsn", "host=x", "--system-dsn", "host=x pass word=hunter2"],
        ["--dsn", "host=x", "--timeout", "soon"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    ended = command(*arguments)
    assert ended.returncode == 2
    assert "hunter2" not in ended.stderr + ended.stdout


def test_server_that_is_not_materialize_is_an_error(database: str) -> None:
    ended = command("--dsn", database)
    assert ended.returncode == 1
    assert 'setup: relation "mz_catalog.mz_clusters" does not exist' in ended.stderr


@pytest.fixture
async def double() -> AsyncIterator[MaterializeDouble]:
    """The server of `make rehearse`, with nothing in it."""
    async with MaterializeDouble() as made:
        Definitions(made, VIEWS)
        yield made


async def run(double: MaterializeDouble, *more: str) -> tuple[int, str]:
    """Run the command; returns its exit status and its last line."""
    process = await asyncio.create_subprocess_exec(
        *(*SCRIPT, "--dsn", double.dsn, "--system-dsn", double.dsn, *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().splitlines()[-1]


async def test_rehearsal_server_understands_the_setup(double: MaterializeDouble) -> None:
    code, last = await run(double)
    assert code == 0, last
    created = {name: double.relation(name) for name in VIEWS}
    assert {relation.retain for relation in created.values()} == {RETENTION}
    assert "alerting" in double.clusters
    assert await run(double, "--check") == (0, last.replace("created", "unchanged"))
    changed = ("--deployment-window", "3 minutes")
    assert (await run(double, "--check", *changed))[0] == 3
    both = await asyncio.gather(run(double, *changed), run(double, *changed))
    assert [code for code, _ in both] == [0, 0], both
    assert (await run(double, "--check", *changed))[0] == 0
    assert {name for name in VIEWS if double.relation(name) is not created[name]} == {"demo.organization_alert"}
