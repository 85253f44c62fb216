"""The runner that brings the SQL into Materialize: what it plans, what it does when things go wrong, what it says.

`Fake` stands for the server where only its catalog matters. It answers as a live server was seen to. A session of our
own and the rules are tried on a real PostgreSQL.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from support.materialize.definitions import Definitions
from support.materialize.errors import ServerError
from support.postgres import Postgres, postgres

ROOT = Path(__file__).parents[2]
MATERIALIZE = ROOT / "materialize"
sys.path.append(str(MATERIALIZE))

from tocsin_setup import rules  # noqa: E402
from tocsin_setup.apply import Setup, switch_on  # noqa: E402
from tocsin_setup.errors import PlanError, ScriptError, SetupError  # noqa: E402
from tocsin_setup.plan import Catalog, Found, Outcome, Step, plan  # noqa: E402
from tocsin_setup.script import Item, Kind, items, load, variables  # noqa: E402
from tocsin_setup.server import LostError, Patience, Server, StatementError  # noqa: E402
from tocsin_setup.trouble import Answer, Trouble, trouble  # noqa: E402

DEFAULTS = {one.name: one.default for one in variables(MATERIALIZE)}
NO_TOPIC = Answer("Topic does not exist", "XX000")
NO_BROKER = Answer("Failed to create and connect Kafka consumer: Broker transport failure", "58000")


def shipped(**other: str) -> tuple[Item, ...]:
    return load(MATERIALIZE, DEFAULTS | other)


@dataclass
class Refusal:
    """Statements that match are refused, so many times."""

    pattern: str
    answer: Answer
    times: float = float("inf")


class Fake(Definitions):
    """The catalog of a Materialize, and what may go wrong with it."""

    name = "fake:6875"

    def __init__(self, *, history: bool = True, tells: bool = True) -> None:
        super().__init__(history=history)
        self.tells = tells
        self.log: list[str] = []
        self.refusals: list[Refusal] = []
        self.before: Callable[[str], None] = lambda _: None
        self.connections = 0

    def connect(self, within: float | None = None) -> None:
        self.connections += 1

    def catalog(self, schema: str) -> Catalog:
        return Catalog(
            clusters=frozenset(self.clusters),
            roles=frozenset(self.roles),
            schemas=frozenset(self.schemas),
            objects={name: Found(kind=one.kind, comment=one.comment) for name, one in self.objects.items()},
        )

    def offers_history(self) -> bool | None:
        return self.history if self.tells else None

    def run(self, statement: str) -> None:
        self.before(statement)
        self.log.append(statement)
        for refusal in self.refusals:
            if refusal.times > 0 and re.search(refusal.pattern, statement):
                refusal.times -= 1
                raise StatementError(refusal.answer)
        try:
            super().run(statement)
        except ServerError as refused:
            raise StatementError(Answer(refused.message, refused.code, refused.detail or "")) from None


@dataclass
class Run:
    """What one run said and did."""

    outcomes: dict[str, Step] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def report(self, step: Step) -> None:
        assert step.item.name not in self.outcomes, "told twice"
        self.outcomes[step.item.name] = step

    def of(self, *outcomes: Outcome) -> set[str]:
        return {name for name, step in self.outcomes.items() if step.outcome in outcomes}


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def prepared(fake: Fake, run: Run, **other: str) -> Setup:
    clock = Clock()
    patience = Patience(say=run.lines.append, monotonic=clock.monotonic, sleep=clock.sleep, deadline=clock.now + 600)
    return Setup(shipped(**other), DEFAULTS | other, fake, patience, run.report)


def set_up(fake: Fake, **other: str) -> Run:
    run = Run()
    prepared(fake, run, **other).run()
    return run


def numbers(fake: Fake) -> dict[str, int]:
    return {name: one.number for name, one in fake.objects.items()}


def content(fake: Fake) -> dict[str, object]:
    return {name: (one.kind, one.reads, one.comment, one.rows, one.history) for name, one in fake.objects.items()} | {
        "": (fake.clusters, fake.roles, fake.schemas, fake.granted)
    }


# A server that has nothing, and one that has everything.


def test_the_first_run_makes_everything() -> None:
    fake = Fake()
    run = set_up(fake)
    wanted = {item.name for item in shipped() if item.kind.in_schema}
    assert set(fake.objects) == wanted
    assert run.of(Outcome.CREATED) == {*wanted, "alerting", "demo", "tocsin"}
    assert all(one.comment for one in fake.objects.values())
    assert {name for name, one in fake.objects.items() if one.rows} == {"organizations", "auction_alerts"}


def test_the_second_run_touches_nothing() -> None:
    fake = Fake()
    set_up(fake)
    before, fake.log = numbers(fake), []
    run = set_up(fake)
    assert numbers(fake) == before
    assert {statement.split()[0] for statement in fake.log} == {"SET", "GRANT"}
    assert run.of(Outcome.CREATED, Outcome.REPLACED, Outcome.CHANGED, Outcome.SKIPPED) == set()


def test_a_plan_has_no_statement_where_all_is_as_it_should_be() -> None:
    fake = Fake()
    set_up(fake)
    steps = plan(shipped(), fake.catalog("demo"), history=True)
    assert [step.item.kind for step in steps if step.statements] == [Kind.SESSION, *[Kind.GRANT] * 3]
    assert not any(step.marks for step in steps)


@pytest.mark.parametrize("history", [True, False])
def test_a_crash_after_any_statement_is_made_up_for_by_the_next_run(history: bool) -> None:
    whole = Fake(history=history)
    set_up(whole)
    for position in range(len(whole.log)):
        fake = Fake(history=history)
        fake.before = lambda _, fake=fake, position=position: interrupt(len(fake.log) == position)  # type: ignore[misc]
        with pytest.raises(KeyboardInterrupt):
            set_up(fake)
        fake.before = lambda _: None
        set_up(fake)
        assert content(fake) == content(whole), whole.log[position]
        settled = numbers(fake)
        set_up(fake)
        assert numbers(fake) == settled


def interrupt(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


def test_two_at_once_come_to_the_same_wherever_they_meet() -> None:
    whole = Fake()
    set_up(whole)
    for position in range(len(whole.log)):
        fake = Fake()

        def second(_: str, fake: Fake = fake, position: int = position) -> None:
            if len(fake.log) == position:
                fake.before = lambda _: None
                set_up(fake)

        fake.before = second
        set_up(fake)
        assert content(fake) == content(whole), whole.log[position]
        settled = numbers(fake)
        set_up(fake)
        assert numbers(fake) == settled


def test_a_view_that_somebody_is_just_making_is_waited_for() -> None:
    fake = Fake()
    set_up(fake)
    made = fake.objects["organization_alert"]
    comment, made.comment = made.comment, None
    looks = itertools.count()
    look = fake.catalog

    def catalog(schema: str) -> Catalog:
        if next(looks) == 3:
            made.comment = comment
        return look(schema)

    fake.catalog = catalog  # type: ignore[method-assign]
    run = set_up(fake)
    assert run.of(Outcome.REPLACED) == set()


# Changes.


def test_a_changed_window_replaces_the_view_and_those_that_read_it_and_nothing_else() -> None:
    fake = Fake()
    set_up(fake)
    before, fake.log = numbers(fake), []
    run = set_up(fake, deployment_window="5 minutes")
    changed = {name for name, number in numbers(fake).items() if number != before[name]}
    assert changed == run.of(Outcome.REPLACED) == {"dim_deployments", "organization_alert"}
    assert run.outcomes["organization_alert"].why == "reads dim_deployments, which is made anew"
    assert [statement for statement in fake.log if statement.startswith("DROP")] == [
        'DROP MATERIALIZED VIEW IF EXISTS "demo".organization_alert',
        'DROP MATERIALIZED VIEW IF EXISTS "demo".dim_deployments',
    ]


def test_a_view_that_nobody_reads_is_replaced_in_one_step_and_granted_again() -> None:
    fake = Fake()
    set_up(fake)
    fake.log = []
    run = set_up(fake, bid_window="9 minutes")
    assert run.of(Outcome.REPLACED) == {"active_alerts"}
    assert [one for one in fake.log if one.startswith(("CREATE", "DROP"))] == [
        next(item.replaced(history=True) for item in shipped(bid_window="9 minutes") if item.name == "active_alerts")
    ]
    assert fake.log.index(fake.log[-1]) > 0
    assert fake.log[-1].startswith("GRANT SELECT")


def test_a_change_at_the_bottom_replaces_all_above_in_an_order_that_the_server_accepts() -> None:
    fake = Fake()
    set_up(fake)
    run = set_up(fake, future_limit="1 minute")
    above = {"fct_customer_events", "dim_deployments", "organization_alert", "winning_bids", "active_alerts"}
    assert run.of(Outcome.REPLACED) == above | {"customer_events_checked", "winning_bids_checked", "rejected_events"}


def test_layout_and_comments_are_no_change_and_a_new_comment_is_only_set() -> None:
    before = 'CREATE VIEW IF NOT EXISTS :"schema".v AS SELECT 1; COMMENT ON VIEW :"schema".v IS \'one\';'
    after = (
        '-- new\nCREATE VIEW IF NOT EXISTS :"schema".v /* x */ AS\n  SELECT 1;\nCOMMENT ON VIEW :"schema".v IS \'two\';'
    )
    (old,), (new,) = (items([("1.sql", text)], {"schema": "demo"}) for text in (before, after))
    assert old.definition == new.definition
    there = Catalog(objects={"v": Found(kind="view", comment=f"one [definition {old.definition}]")})
    (step,) = plan([new], there, history=True)
    assert (step.outcome, step.statements) == (Outcome.CHANGED, ())
    assert step.marks == f"COMMENT ON VIEW \"demo\".v IS 'two [definition {new.definition}]'"


def test_a_source_that_changed_is_kept_and_told_with_what_to_do() -> None:
    fake = Fake()
    set_up(fake)
    before = numbers(fake)
    run = set_up(fake, broker="elsewhere:9092")
    assert numbers(fake) == before
    assert run.of(Outcome.SKIPPED) == {"broker"}
    assert "DROP it ... CASCADE first" in run.outcomes["broker"].why


def test_rules_that_were_all_removed_do_not_come_back() -> None:
    fake = Fake()
    set_up(fake)
    fake.objects["auction_alerts"].rows = 0
    set_up(fake)
    assert fake.objects["auction_alerts"].rows == 0


def test_what_psql_made_is_taken_over() -> None:
    fake = Fake()
    for item in shipped():
        for statement in (item.create, *item.seeds, *([item.commented(item.comment)] if item.comment else [])):
            fake.run(statement)
    before = numbers(fake)
    run = set_up(fake)
    kept = {item.name for item in shipped() if item.kind.in_schema and not item.kind.replaceable}
    assert {name for name, number in numbers(fake).items() if number == before[name]} == kept
    assert run.of(Outcome.CHANGED) == kept
    settled = numbers(fake)
    set_up(fake)
    assert numbers(fake) == settled


def test_something_else_with_the_name_of_a_view_is_an_error_that_says_so() -> None:
    there = Catalog(objects={"winning_bids": Found(kind="table")})
    with pytest.raises(PlanError, match=r"view demo.winning_bids cannot be made: a table has its name.*--schema"):
        plan(shipped(), there, history=True)


def test_a_view_of_somebody_else_is_not_dropped_along() -> None:
    fake = Fake()
    set_up(fake)
    fake.run('CREATE VIEW "demo".mine AS SELECT * FROM "demo".dim_deployments')
    with pytest.raises(SetupError, match=r"006_alerts.sql:\d+: .*dim_deployments.*\"mine\". Drop what reads it"):
        set_up(fake, deployment_window="5 minutes")
    assert "mine" in fake.objects


# History.


@pytest.mark.parametrize("tells", [True, False])
def test_without_retain_history_everything_else_is_made(tells: bool) -> None:
    fake = Fake(history=False, tells=tells)
    run = set_up(fake)
    assert len(run.of(Outcome.CREATED)) == len(fake.objects) + 3
    assert "RETAIN HISTORY" in run.outcomes["organization_alert"].why
    assert sum("RETAIN HISTORY" in statement for statement in fake.log) == (0 if tells else 1)  # tried once


@pytest.mark.parametrize("tells", [True, False])
def test_history_that_is_offered_later_is_switched_on_without_a_new_view(tells: bool) -> None:
    fake = Fake(history=False, tells=tells)
    set_up(fake)
    fake.history, before = True, numbers(fake)
    run = set_up(fake)
    assert run.of(Outcome.CHANGED) == {"organization_alert", "active_alerts", "rejected_events"}
    assert numbers(fake) == before
    assert all(fake.objects[name].history for name in run.of(Outcome.CHANGED))
    assert set_up(fake).of(Outcome.CHANGED) == set()


def test_history_that_cannot_be_switched_on_later_is_told_and_no_failure() -> None:
    fake = Fake(history=False)
    set_up(fake)
    fake.history = True
    fake.refusals = [Refusal("ALTER MATERIALIZED", Answer("ALTER MATERIALIZED VIEW is not supported", "0A000"))]
    assert set_up(fake).of(Outcome.SKIPPED) == {"organization_alert", "active_alerts", "rejected_events"}


@pytest.mark.parametrize(
    ("system", "refused", "outcome", "why"),
    [
        (None, None, Outcome.SKIPPED, "no --system-dsn was given"),
        (Fake(history=True), None, Outcome.UNCHANGED, ""),
        (Fake(history=False), None, Outcome.CHANGED, "switched on"),
        (Fake(history=False), Answer("must be a superuser", "42501"), Outcome.SKIPPED, "must be a superuser"),
    ],
)
def test_the_setting_of_the_system_is_tried_and_told(
    system: Fake | None, refused: Answer | None, outcome: Outcome, why: str
) -> None:
    run = Run()
    if system is not None and refused is not None:
        system.refusals = [Refusal("ALTER SYSTEM", refused)]
    switch_on(shipped(), system, run.report)
    (step,) = run.outcomes.values()
    assert step.outcome is outcome
    assert step.why.startswith(why)


# What is not there yet, or not allowed.


def test_the_broker_and_the_topics_are_waited_for_with_one_line_each() -> None:
    fake = Fake()
    fake.refusals = [
        Refusal("CREATE CONNECTION", NO_BROKER, 5),
        Refusal("customer_events_raw", NO_TOPIC, 4),
        Refusal("winning_bids_raw", NO_TOPIC, 3),
    ]
    run = set_up(fake)
    assert [line.split(":")[0] for line in run.lines] == [
        "waiting for the broker redpanda",
        "waiting for topic customer_events",
        "waiting for topic winning_bids",
    ]
    assert run.lines[1].endswith("the broker does not have it yet; the producer creates it")
    assert len(run.of(Outcome.CREATED)) == len(fake.objects) + 3


def test_a_long_wait_is_told_again_and_ends() -> None:
    fake, run = Fake(), Run()
    fake.refusals = [Refusal("customer_events_raw", NO_TOPIC)]
    with pytest.raises(SetupError, match="gave up waiting for topic customer_events"):
        prepared(fake, run).run()
    assert 10 <= len(run.lines) <= 21  # ten minutes, a line every 30 s


def test_a_role_that_may_not_be_created_leaves_out_the_grants_and_no_more() -> None:
    fake = Fake()
    fake.refusals = [Refusal("CREATE ROLE", Answer("permission denied for SYSTEM", "42501", "needs CREATEROLE"))]
    run = set_up(fake)
    grants = {item.name for item in shipped() if item.kind is Kind.GRANT}
    assert run.of(Outcome.SKIPPED) == {"tocsin", *grants}
    assert "needs CREATEROLE" in run.outcomes["tocsin"].why


def test_a_cluster_that_may_not_be_created_is_an_error_with_a_way_out() -> None:
    fake = Fake()
    fake.refusals = [Refusal("CREATE CLUSTER", Answer("permission denied for SYSTEM", "42501"))]
    with pytest.raises(SetupError, match=r"001_places.sql:5: cluster .*permission denied.* --cluster"):
        set_up(fake)


def test_a_cluster_that_is_there_is_left_as_it_is() -> None:
    fake = Fake()
    fake.clusters = {"quickstart"}
    run = set_up(fake, cluster="quickstart")
    assert run.outcomes["quickstart"].outcome is Outcome.UNCHANGED
    assert not any("ON CLUSTER" in statement for statement in fake.log if statement.startswith("COMMENT"))


def test_a_refused_statement_is_an_error_with_file_and_line() -> None:
    fake = Fake()
    fake.refusals = [Refusal("dim_deployments", Answer('invalid input syntax for type interval: "soon"', "22007"))]
    with pytest.raises(SetupError, match=r"006_alerts.sql:6: materialized view demo.dim_deployments: invalid input"):
        set_up(fake)


def test_a_name_that_never_comes_ends_the_run() -> None:
    fake = Fake()
    fake.refusals = [Refusal("CREATE VIEW.*winning_bids_text", Answer("unknown catalog item 'x'", "XX000"))]
    with pytest.raises(SetupError, match="unknown catalog item 'x'"):
        set_up(fake)


def test_a_comment_on_a_view_that_is_refused_is_an_error_since_the_view_would_be_replaced_for_ever() -> None:
    fake = Fake()
    fake.refusals = [Refusal("COMMENT ON VIEW", Answer("must be owner of VIEW", "42501"))]
    with pytest.raises(SetupError, match="must be owner"):
        set_up(fake)


def test_a_comment_on_a_cluster_that_is_refused_changes_nothing() -> None:
    fake = Fake()
    fake.refusals = [Refusal("COMMENT ON CLUSTER", Answer("must be owner of CLUSTER", "42501"))]
    assert set_up(fake).outcomes["alerting"].outcome is Outcome.CREATED


def test_a_lost_connection_is_made_again_and_the_run_goes_on() -> None:
    whole = Fake()
    set_up(whole)
    for position in range(len(whole.log)):
        fake = Fake()

        def lose(_: str, fake: Fake = fake, position: int = position) -> None:
            if len(fake.log) == position and not fake.connections:
                raise LostError("server closed the connection unexpectedly")

        fake.before = lose
        run = set_up(fake)
        assert fake.connections == 1
        assert content(fake) == content(whole)
        assert run.lines == ["waiting for Materialize at fake:6875: server closed the connection unexpectedly"]


# --check.


def test_check_tells_what_a_run_would_do_and_does_nothing() -> None:
    fake, run = Fake(), Run()
    assert prepared(fake, run).check()
    assert fake.log == []
    done = set_up(fake)
    assert run.of(Outcome.CREATED) == done.of(Outcome.CREATED)
    assert not prepared(fake, Run()).check()
    again = Run()
    assert prepared(fake, again, bid_window="9 minutes").check()
    assert again.of(Outcome.REPLACED) == {"active_alerts"}


# Reading the files.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;", "1.sql:1: no place for a statement that begins SELECT 1"),
        ('\n\nCREATE SCHEMA IF NOT EXISTS :"schema"', "1.sql:3: a statement without a semicolon"),
        ('CREATE SCHEMA IF NOT EXISTS :"schema"\n\\echo', "1.sql:2: a line for psql inside a statement"),
        ('CREATE SCHEMA IF NOT EXISTS :"schema";', "1.sql:1: schema .* has no COMMENT"),
        (
            'CREATE VIEW IF NOT EXISTS :"schema".v AS SELECT * FROM :"schema".w;',
            "view demo.v uses w, which is not there",
        ),
        ('CREATE VIEW :"schema".v AS SELECT 1;', "CREATE VIEW without IF NOT EXISTS"),
        ('CREATE ROLE IF NOT EXISTS :"schema";', "CREATE ROLE with IF NOT EXISTS"),
        ("CREATE VIEW IF NOT EXISTS v AS SELECT 1;", 'a name must be :"schema". and a word in small letters'),
        ('CREATE VIEW IF NOT EXISTS :"schema".V AS SELECT 1;', "a word in small letters"),
        ('CREATE SCHEMA IF NOT EXISTS :"other";', ':"other" is not in variables.psql'),
        ("CREATE FUNCTION f();", "no such kind of object: FUNCTION"),
        ("COMMENT ON VIEW :\"schema\".v IS 'x';", "speaks of view v, which is not there yet"),
        ("SET cluster = 'x;", "1.sql:1: a quote without its end"),
    ],
)
def test_a_file_that_makes_no_sense_is_an_error_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ScriptError, match=message):
        items([("1.sql", text)], {"schema": "demo"})


def test_semicolons_quotes_and_variables_in_literals_and_comments_are_none() -> None:
    text = """
    -- it's; :"nothing"
    CREATE VIEW IF NOT EXISTS :"schema".v AS SELECT 'a;''b :''x'' --' AS ":'y'", 1::int /* ; ' */;
    COMMENT ON VIEW :"schema".v IS 'it''s; fine';
    """
    (item,) = items([("1.sql", text)], {"schema": "s"})
    assert item.create == """CREATE VIEW IF NOT EXISTS "s".v AS SELECT 'a;''b :''x'' --' AS ":'y'", 1::int"""
    assert item.comment == "it's; fine"
    assert item.commented(item.comment).endswith("IS 'it''s; fine'")


def test_a_directory_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="has no numbered SQL files"):
        load(tmp_path, {})
    with pytest.raises(ScriptError, match=r"variables.psql: cannot be read"):
        variables(tmp_path)


@pytest.mark.parametrize(
    ("kind", "text", "state", "meaning"),
    [
        (Kind.SOURCE, "Topic does not exist", "XX000", Trouble.TOPIC_MISSING),
        (Kind.CONNECTION, "Broker transport failure", "58000", Trouble.BROKER_AWAY),
        (
            Kind.SOURCE,
            "Meta data fetch error: BrokerTransportFailure (Local: Broker transport failure)",
            "XX000",
            Trouble.BROKER_AWAY,
        ),
        (Kind.CLUSTER, "cluster 'alerting' already exists", "XX000", Trouble.OVERTAKEN),
        (Kind.VIEW, "unknown catalog item 'demo.x'", "XX000", Trouble.OVERTAKEN),
        (Kind.MATERIALIZED_VIEW, "RETAIN HISTORY is not available", "XX000", Trouble.NO_HISTORY),
        (Kind.ROLE, "permission denied for SYSTEM", "42501", Trouble.REFUSED),
        (Kind.VIEW, 'cannot drop view "v": still depended upon by view "w"', "XX000", Trouble.IN_USE),
        (Kind.VIEW, "Broker transport failure", "XX000", Trouble.FATAL),
        (Kind.VIEW, 'column "x" does not exist', "42703", Trouble.FATAL),
    ],
)
def test_an_error_is_read_for_what_it_means(kind: Kind, text: str, state: str, meaning: Trouble) -> None:
    assert trouble(Item(kind=kind, name="x", create="", place=""), Answer(text, state)) is meaning


# A session, on a real server.


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


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
