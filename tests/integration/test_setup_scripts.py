"""`materialize/setup.py` as a command: its queries, options, messages and exit status."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest

from setup import PREFIX, Setup, Waiting, connect, main
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


Call = Callable[..., tuple[int, str, str]]
"""Runs the command in this process with arguments and variables: its status, output and errors."""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    before = signal.getsignal(signal.SIGTERM)

    def called(*arguments: str, **variables: str) -> tuple[int, str, str]:
        try:
            status = main(arguments, {f"{PREFIX}{name}": value for name, value in variables.items()})
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, *capsys.readouterr()

    yield called
    signal.signal(signal.SIGTERM, before)


def test_help_lists_every_variable(call: Call) -> None:
    status, output, _ = call("--help")
    assert status == 0
    assert all(f"--{name.replace('_', '-')}" in output for name in DEFAULTS)


def test_options_come_from_the_environment(call: Call) -> None:
    """An empty variable counts as unset. A server that does not answer in time ends with 1, in one line."""
    dsn = "host=127.0.0.1 port=1 password=hunter2"
    status, output, errors = call(DSN=dsn, TIMEOUT="0s", BROKER="", SYSTEM_DSN="")
    assert status == 1
    assert errors.startswith("setup: gave up waiting for Materialize at 127.0.0.1:1")
    assert errors.count("\n") == 1
    assert "hunter2" not in errors + output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dsn", "host=x pass word=hunter2"],
        ["--dsn", "host=x", "--system-dsn", "host=x pass word=hunter2"],
        ["--dsn", "host=x", "--timeout", "soon"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], call: Call) -> None:
    status, output, errors = call(*arguments)
    assert status == 2
    assert "hunter2" not in errors + output


def test_server_that_is_not_materialize_is_an_error(database: str, call: Call) -> None:
    status, _, errors = call("--dsn", database)
    assert status == 1
    assert 'setup: relation "mz_catalog.mz_clusters" does not exist' in errors


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
