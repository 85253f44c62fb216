"""The runner that brings the SQL into Materialize, where the server lacks something, refuses or goes away."""

import pytest

from support.materialize.setup import Fake, Refusal, Run, content, numbers, prepared, set_up, shipped
from tocsin_setup.apply import switch_on
from tocsin_setup.errors import SetupError
from tocsin_setup.plan import Outcome
from tocsin_setup.script import Item, Kind
from tocsin_setup.server import LostError
from tocsin_setup.trouble import Answer, Trouble, trouble

NO_TOPIC = Answer("Topic does not exist", "XX000")
NO_BROKER = Answer("Failed to create and connect Kafka consumer: Broker transport failure", "58000")


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
