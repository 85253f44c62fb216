"""`materialize/setup.py` and `materialize/rule.py` on a real PostgreSQL: their session, the rules, the commands."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import psycopg
import pytest

from support.materialize.setup import DEFAULTS, MATERIALIZE, Clock, shipped
from support.postgres import Postgres
from tocsin_setup import rules
from tocsin_setup.errors import SetupError
from tocsin_setup.plan import Catalog, Found
from tocsin_setup.script import Kind
from tocsin_setup.server import LostError, Patience, Server, StatementError
from tocsin_setup.trouble import Answer

# A session.


@pytest.fixture
def database(server: Postgres) -> str:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS setup WITH (FORCE)")
        admin.execute("CREATE DATABASE setup")
    return server.dsn("setup", port="5432")


@pytest.fixture
def session(database: str) -> Iterator[Server]:
    clock = Clock()
    patience = Patience(say=lambda _: None, monotonic=clock.monotonic, sleep=clock.sleep, deadline=clock.now + 5)
    session = Server(database, patience)
    session.connect()
    yield session
    session.close()


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


def test_the_catalog_is_that_of_the_schema_in_this_database(session: Server) -> None:
    for statement in filter(str.strip, CATALOG.split(";")):
        session.run(statement)
    assert session.catalog("demo") == Catalog(
        clusters=frozenset({"alerting"}),
        roles=frozenset({"tocsin"}),
        schemas=frozenset({"demo", "else"}),
        objects={"v": Found(kind="view", comment="a view"), "m": Found(kind="materialized-view")},
    )


def test_a_refusal_carries_what_the_server_said_and_the_session_goes_on(session: Server) -> None:
    with pytest.raises(StatementError) as refused:
        session.run("SELECT 1/0")
    assert refused.value.answer == Answer("division by zero", "22012")
    assert session.offers_history() is None
    assert session.ask("SELECT %s, 100 %% 7", "it's") == [("it's", 2)]


def test_a_session_that_was_cut_is_told_and_made_again(session: Server, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tocsin-setup'")
    with pytest.raises(LostError):
        session.run("SELECT 1")
    session.connect()
    assert session.ask("SELECT 1") == [(1,)]


def test_a_server_that_is_not_there_is_waited_for_and_given_up_on() -> None:
    clock, lines = Clock(), list[str]()
    patience = Patience(say=lines.append, monotonic=clock.monotonic, sleep=clock.sleep, deadline=clock.now + 60)
    with pytest.raises(SetupError, match=r"gave up waiting for Materialize at 127\.0\.0\.1:1: "):
        Server("host=127.0.0.1 port=1 password=hidden", patience).connect()
    assert 2 <= len(lines) <= 3
    assert "hidden" not in "".join(lines)


# Rules.


def rule(database: str, *arguments: str) -> int:
    return rules.main(["--dsn", database, *arguments], {})


@pytest.fixture
def with_rules(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as connection:
        for item in shipped():
            if item.kind in {Kind.SCHEMA, Kind.TABLE}:
                for statement in (item.create, *item.seeds):
                    connection.execute(statement.encode())
    return database


def test_rules_are_listed_added_changed_and_removed(with_rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        rule(with_rules, "add", "it's 100% art", "--item", "Custom Art", "--above", "19.99", "--severity", "info") == 0
    )
    assert rule(with_rules, "change", "expensive pizza", "--above", "80") == 0
    assert rule(with_rules, "remove", "all art") == 0
    assert rule(with_rules, "set-threshold", "B", "20") == 0
    capsys.readouterr()
    assert rule(with_rules, "list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "auction rule     item                above  severity",
        "expensive pizza  Best Pizza in Town  80     warning",
        "it's 100% art    Custom Art          19.99  info",
        "",
        "organization  threshold  severity  owner",
        "A             5          critical  team-a",
        "B             20         warning   team-b",
        "C             5          warning   team-c",
        "D             5          critical  team-d",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["add", "all art", "--item", "Custom Art", "--above", "1"],
            "rule: there is a rule 'all art' for 'Custom Art' already",
        ),
        (
            ["change", "no art", "--above", "1"],
            "there is no such rule as 'no art'; there are 'all art', 'expensive pizza'",
        ),
        (["change", "all art"], "nothing to change: give --above or --severity"),
        (["remove", "all art", "--item", "City Bike"], "there is no such rule as 'all art'"),
        (["set-threshold", "Z", "1"], "there is no organization 'Z'; there are A, B, C, D"),
        (["--schema", "none", "list"], 'relation "none.auction_alerts" does not exist'),
    ],
)
def test_what_cannot_be_done_to_a_rule_is_told_with_what_there_is(
    with_rules: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert rule(with_rules, *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "x", "--item", "y", "--above", "NaN"],
        ["add", "x", "--item", " ", "--above", "1"],
        ["set-threshold", "A", "-1"],
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        rule("host=127.0.0.1", *arguments)
    assert ended.value.code == 2


# The command.


def command(script: str, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TOCSIN_", "PG"))}
    return subprocess.run(
        [sys.executable, str(MATERIALIZE / script), *arguments],
        env=clean | dict(environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )


@pytest.mark.parametrize("script", ["setup.py", "rule.py"])
def test_help_has_examples_and_every_variable(script: str) -> None:
    shown = command(script, "--help")
    assert shown.returncode == 0
    assert "examples:" in shown.stdout
    assert script == "rule.py" or all(f"--{name.replace('_', '-')}" in shown.stdout for name in DEFAULTS)


def test_options_come_from_the_environment_too_and_an_empty_variable_is_none() -> None:
    environ = {
        "TOCSIN_SETUP_DSN": "host=127.0.0.1 port=1",
        "TOCSIN_SETUP_TIMEOUT": "0s",
        "TOCSIN_SETUP_BROKER": "",
        "TOCSIN_SETUP_SYSTEM_DSN": "",
    }
    ended = command("setup.py", environ=environ)
    assert ended.returncode == 1
    assert ended.stderr.startswith("setup: gave up waiting for Materialize at 127.0.0.1:1")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("option", ["--dsn", "--system-dsn"])
def test_a_connection_string_that_is_none_is_told_without_its_secret(option: str) -> None:
    ended = command("setup.py", "--dsn", "host=127.0.0.1 port=1", option, "host=x pass word=hunter2")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"setup: {option} (or TOCSIN_SETUP_")
    assert "hunter2" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("arguments", [[], ["--dsn", "x", "--timeout", "soon"], ["--dsn", "x", "--schema", ""]])
def test_options_that_are_missing_or_wrong_end_with_2(arguments: list[str]) -> None:
    assert command("setup.py", *arguments).returncode == 2


def test_a_server_that_is_no_materialize_is_told_in_one_line(database: str) -> None:
    ended = command("setup.py", "--dsn", database)
    assert ended.returncode == 1
    assert ended.stderr == 'setup: relation "mz_catalog.mz_clusters" does not exist\n'
