"""`materialize/setup.py` on a server that has no objects, all objects, other objects, or refuses."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from sql_plan import OBJECTS, SetupError, statements
from support.definitions import Catalog, Created
from support.setup_server import Clock, clock, refused, set_up, shipped, would_set_up

__all__ = ["clock"]
pytestmark = pytest.mark.usefixtures("clock")

ALERTS = {"organization_alert", "active_alerts", "rejected_events"}
REPEATED = ("SET", "CREATE SCHEMA", "GRANT", "ALTER")
"""Statements that change nothing when repeated, so every run executes them."""


@pytest.fixture
def complete() -> Catalog:
    """A server that is set up."""
    server = Catalog()
    set_up(server)
    return server


def numbers(server: Catalog) -> dict[str, int]:
    """The objects; a recreated one has another number."""
    return {name: one.number for name, one in server.objects.items()}


def content(server: Catalog) -> object:
    """Everything except the numbers."""
    objects = {name: replace(one, number=0) for name, one in server.objects.items()}
    return objects, server.named, server.granted


def named(outcomes: dict[str, str], *outcome: str) -> set[str]:
    return {what.split()[-1] for what, became in outcomes.items() if became in outcome}


def refusing(pattern: str, sqlstate: str, message: str, times: int = 1000) -> Callable[[str], None]:
    left = [times]

    def before(statement: str) -> None:
        if pattern in statement and left[0]:
            left[0] -= 1
            raise refused(sqlstate, message)

    return before


def test_creates_everything_then_nothing() -> None:
    server = Catalog()
    objects = {each.name for each in shipped() if each.action in OBJECTS}
    outcomes = set_up(server)
    assert set(server.objects) == objects
    assert named(outcomes, "created") == {*objects, "alerting", "tocsin"}
    assert all(one.comment for one in server.objects.values())
    assert {name for name, one in server.objects.items() if one.rows} == {"organizations", "auction_alerts"}
    assert {name for name, one in server.objects.items() if one.history} == ALERTS
    before, server.log = numbers(server), []
    assert set(set_up(server).values()) == {"unchanged"}
    assert numbers(server) == before
    assert [each for each in server.log if not each.startswith(REPEATED)] == []


@pytest.mark.parametrize("trouble", ["killed", "connection lost", "second setup", "second setup with changes"])
@pytest.mark.parametrize("history", [True, False])
def test_disturbance_at_any_statement_is_repaired(trouble: str, history: bool) -> None:
    """After a disturbance before any statement, this run or the next has the result of an undisturbed run."""
    changed = {"deployment_window": "5 minutes"} if "changes" in trouble else {}
    whole = Catalog(history=history)
    if changed:
        set_up(whole)
    whole.log.clear()
    set_up(whole, **changed)
    for position in range(len(whole.log)):
        server = Catalog(history=history)
        if changed:
            set_up(server)
        server.log.clear()

        def before(_: str, server: Catalog = server, position: int = position) -> None:
            if len(server.log) != position:
                return
            server.before = lambda _: None
            if trouble == "killed":
                raise KeyboardInterrupt
            if trouble == "connection lost":
                raise ConnectionError("server closed the connection unexpectedly")
            set_up(server, **changed)

        server.before = before
        try:
            set_up(server, **changed)
        except KeyboardInterrupt:
            set_up(server, **changed)
        assert content(server) == content(whole), position
        settled = numbers(server)
        set_up(server, **changed)
        assert numbers(server) == settled


def test_waits_for_view_another_setup_creates(complete: Catalog, clock: Clock) -> None:
    view = complete.objects["organization_alert"]
    comment, view.comment = view.comment, None

    def finish() -> None:
        view.comment = comment

    clock.slept = finish
    assert set(set_up(complete).values()) == {"unchanged"}


@pytest.mark.parametrize(
    ("changed", "recreated"),
    [
        ({"deployment_window": "5 minutes"}, {"dim_deployments", "organization_alert"}),
        ({"bid_window": "9 minutes"}, {"active_alerts"}),
        (
            {"future_limit": "1 minute"},
            {"customer_events_checked", "fct_customer_events", "dim_deployments", "winning_bids_checked"}
            | {"winning_bids"}
            | ALERTS,
        ),
    ],
)
def test_changed_view_is_recreated_with_its_readers(
    complete: Catalog, changed: dict[str, str], recreated: set[str]
) -> None:
    before, complete.log = numbers(complete), []
    predicted = would_set_up(complete, **changed)
    assert complete.log == []
    outcomes = set_up(complete, **changed)
    assert outcomes == predicted
    assert named(outcomes, "recreated") == recreated
    assert {name for name, number in numbers(complete).items() if number != before[name]} == recreated
    assert sum(each.startswith("GRANT SELECT") for each in complete.log) == 1  # recreated views have lost their grants
    assert set(would_set_up(complete, **changed).values()) == {"unchanged"}


def test_layout_and_comments_do_not_count_as_changes(tmp_path_factory: pytest.TempPathFactory) -> None:
    texts = (
        "CREATE VIEW IF NOT EXISTS :\"schema\".v AS SELECT 'a;  b';",
        "-- new\nCREATE VIEW  IF NOT EXISTS :\"schema\".v -- more\nAS\n  SELECT 'a;  b';",
    )
    hashes = set()
    for text in texts:
        directory = tmp_path_factory.mktemp("sql")
        (directory / "1.sql").write_text(text)
        (statement,) = statements({"schema": "demo"}, directory)
        hashes.add(statement.hash)
    assert len(hashes) == 1


def test_source_with_another_definition_is_kept(complete: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    before = numbers(complete)
    assert named(set_up(complete, broker="elsewhere:9092"), "kept") == {"broker"}
    assert numbers(complete) == before
    assert "kept       connection broker: its definition differs" in capsys.readouterr().out


def test_deleted_rules_do_not_come_back(complete: Catalog) -> None:
    complete.objects["auction_alerts"].rows = 0
    set_up(complete)
    assert complete.objects["auction_alerts"].rows == 0


def test_objects_created_by_psql_are_taken_over() -> None:
    server, whole = Catalog(), Catalog()
    for each in shipped():
        server.run(each.text)
    data = {name: one.number for name, one in server.objects.items() if "view" not in one.kind}
    set_up(server)
    set_up(whole)
    assert content(server) == content(whole)
    assert numbers(server).items() >= data.items()
    assert set(would_set_up(server).values()) == {"unchanged"}


def test_name_taken_by_another_type_is_an_error() -> None:
    server = Catalog()
    server.objects["winning_bids"] = Created(1, "table", frozenset())
    with pytest.raises(SetupError, match=r"004_events.sql:\d+: CREATE VIEW winning_bids: a table has this name"):
        set_up(server)


def test_view_of_someone_else_is_never_dropped(complete: Catalog) -> None:
    complete.run('CREATE VIEW IF NOT EXISTS "demo".mine AS SELECT * FROM "demo".dim_deployments')
    with pytest.raises(SetupError, match=r"005_alerts.sql:\d+: .*dim_deployments: .*\"mine\""):
        set_up(complete, deployment_window="5 minutes")
    assert "mine" in complete.objects


def test_history_allowed_later_needs_no_new_view(capsys: pytest.CaptureFixture[str]) -> None:
    server = Catalog(history=False)
    assert named(set_up(server), "skipped") == ALERTS
    assert "organization_alert: RETAIN HISTORY is not available" in capsys.readouterr().out
    server.history, before = True, numbers(server)
    set_up(server)
    assert numbers(server) == before
    assert all(server.objects[name].history for name in ALERTS)


def test_waits_for_broker_and_topics_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ("XX000", "Topic does not exist")
    refusals = [
        refusing("CREATE CONNECTION", "58000", "Broker transport failure", 5),
        *(
            refusing(f'SOURCE IF NOT EXISTS "demo".{name}_raw', *missing, 3)
            for name in ("customer_events", "winning_bids")
        ),
    ]
    server = Catalog()

    def before(statement: str) -> None:
        for refusal in refusals:
            refusal(statement)

    server.before = before
    set_up(server)
    waited = [line for line in capsys.readouterr().out.splitlines() if line.startswith("waiting")]
    assert [line.rpartition(" of ")[2] for line in waited] == [
        "broker: Broker transport failure",
        "customer_events_raw: Topic does not exist",
        "winning_bids_raw: Topic does not exist",
    ]


def test_gives_up_waiting_after_the_timeout() -> None:
    server = Catalog()
    server.before = refusing("customer_events_raw", "XX000", "Topic does not exist")
    with pytest.raises(SetupError, match=r"gave up waiting for .* customer_events_raw: Topic does not exist"):
        set_up(server)


@pytest.mark.parametrize("refusal", ["CREATE ROLE", "GRANT"])
def test_refused_role_or_grant_leaves_the_rest(refusal: str) -> None:
    server = Catalog()
    server.before = refusing(refusal, "42501", "permission denied for SYSTEM")
    outcomes = set_up(server)
    assert {what.split()[0] for what, became in outcomes.items() if became == "skipped"} <= {"role", "grant"}
    assert server.objects.keys() == {each.name for each in shipped() if each.action in OBJECTS}


@pytest.mark.parametrize(
    ("pattern", "sqlstate", "message", "place"),
    [
        ("CREATE CLUSTER", "42501", "permission denied", r"001_cluster.sql:5: CREATE CLUSTER alerting"),
        ("CREATE CONNECTION", "42501", "permission denied", r"002_sources.sql:5: CREATE CONNECTION broker"),
        ("dim_deployments", "22007", "invalid input", r"005_alerts.sql:8: CREATE MATERIALIZED VIEW dim_deployments"),
        ("COMMENT ON VIEW", "42501", "must be owner", r"004_events.sql:\d+: COMMENT ON VIEW events_raw"),
    ],
)
def test_refused_statement_is_an_error_with_its_place(pattern: str, sqlstate: str, message: str, place: str) -> None:
    server = Catalog()
    server.before = refusing(pattern, sqlstate, message)
    with pytest.raises(SetupError, match=f"{place}: {message}"):
        set_up(server)


def test_existing_cluster_is_left_as_it_is() -> None:
    server = Catalog()
    server.named = {"quickstart"}
    assert set_up(server, cluster="quickstart")["cluster quickstart"] == "unchanged"
