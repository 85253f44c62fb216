"""The shipped SQL and the shipped producer, on a Materialize and a Kafka broker that are really there.

TOCSIN_TEST_MATERIALIZE_DSN names the one, TOCSIN_TEST_KAFKA the other (host:port). Where Materialize reaches the broker
by another name, TOCSIN_TEST_KAFKA_FROM_MATERIALIZE says which. All that is made lives in a schema, a cluster and a role
with a random name that go with the tests. The topics are those of the producer, and stay. Each test has organizations
and items of its own, so that what was sent before does not matter; only malformed events that another
program sends meanwhile would.
"""

import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg import sql

from support.live_model import (
    NEEDS_BOTH,
    SOON,
    Model,
    changes,
    delete_topic,
    deployment,
    ended,
    firing,
    made,
    produce,
    send,
    sending,
    until,
)
from tocsin_producer.events import CUSTOMER_EVENTS, TOPICS, WINNING_BIDS, Kind, Schedule
from tocsin_producer.plan import Plan
from tocsin_producer.sinks.kafka import KafkaSink

pytestmark = [*NEEDS_BOTH, pytest.mark.timeout(240)]

WINDOW = 20.0  # seconds; shipped: two minutes
AT_ONCE = 2.0

T = TypeVar("T")


@pytest.fixture(scope="module", autouse=True)
def sink() -> Iterator[KafkaSink]:
    with sending() as sink:
        sink.prepare(TOPICS)
        yield sink


@pytest.fixture(scope="module")
def made_model(sink: KafkaSink) -> Iterator[tuple[Model, str]]:
    """The model as setup.py makes it, and what that printed."""
    model = Model(f"tocsin_test_{secrets.token_hex(4)}", deployment_window=f"{WINDOW:g} seconds")
    with made(model) as printed:
        model.hydrated()
        yield model, printed


@pytest.fixture
def model(made_model: tuple[Model, str]) -> Model:
    return made_model[0]


@pytest.fixture
def first(made_model: tuple[Model, str]) -> str:
    """Output of the first run of setup.py."""
    return made_model[1]


def test_second_setup_creates_nothing(model: Model, first: str) -> None:
    assert "recreated" not in first
    model.setup("--check")
    again = model.setup()
    words = {line.split()[0] for line in again.splitlines()[:-1]}
    assert words <= {"unchanged", "skipped", "waiting"}, again
    without = model.run(
        "SELECT o.name FROM mz_catalog.mz_objects AS o JOIN mz_catalog.mz_schemas AS s ON s.id = o.schema_id "
        "LEFT JOIN mz_internal.mz_comments AS c ON c.id = o.id AND c.object_type = o.type AND c.object_sub_id IS NULL "
        f"WHERE s.name = '{model.schema}' AND c.comment IS NULL AND o.name NOT LIKE '%_progress'"
    )
    assert without == []


def test_alert_views_retain_history_if_allowed(model: Model, first: str) -> None:
    kept = dict(
        model.run(
            "SELECT o.name, h.value::text FROM mz_internal.mz_history_retention_strategies AS h "
            "JOIN mz_catalog.mz_objects AS o ON o.id = h.id JOIN mz_catalog.mz_schemas AS s ON s.id = o.schema_id "
            f"WHERE s.name = '{model.schema}' AND o.type = 'materialized-view'"
        )
    )
    refused = "skipped    alter materialized view" in first
    expected = "1000" if refused else "3600000"
    assert {kept[view] for view in ("organization_alert", "active_alerts", "rejected_events")} == {expected}


def test_spike_is_a_row_for_its_window(model: Model) -> None:
    organizations = [model.organization(threshold=9) for _ in range(4)]
    options = ("--organizations", ",".join(organizations), "--rate", "0", "--bid-rate", "0")
    plan = Plan(
        organizations=tuple(organizations), rate=0, bid_rate=0, spike_interval=600, first_spike_after=4, limit=20
    )
    events = [json.loads(event.value or b"") for event in Schedule(plan).events(start=0)]
    spiking = events[-1]["organization"]
    expected = sum(event["organization"] == spiking for event in events)

    with model.subscriber("organization_alert") as lines:
        producer = produce(*options, "--spike-interval", "600s", "--first-spike-after", "4s", "--limit", "20")
        until(lambda: firing(lines, spiking), "the spike")
        seen = time.time()
        ended(producer)
        until(lambda: [row[3] for row in model.alert(spiking)] == [expected], f"{expected} deployments", within=10)
        ((sent, spiked),) = model.run(
            "SELECT extract(epoch FROM max(received_at))::float8, extract(epoch FROM max(event_at))::float8 "
            f"FROM {{}}.customer_events_checked WHERE organization = '{spiking}'"
        )
        assert seen - sent <= AT_ONCE
        types = model.run(f"SELECT max(deployment_cnt) FROM {{}}.dim_deployments WHERE organization = '{spiking}'")
        assert types[0][0] >= plan.spike_size

        until(lambda: not firing(lines, spiking), "the end of the spike", within=WINDOW + SOON)
        over = changes(lines, spiking)[-1][0]
        assert 0 < over - (spiked + WINDOW) * 1000 <= 1000, "on the source's clock, to the second"
    others = set(organizations) - {spiking}
    assert not any(one in line for one in others for line in lines)


def test_both_deployment_types_are_one_row(model: Model, sink: KafkaSink) -> None:
    organization = model.organization()
    now = int(time.time())
    early, late = now - int(WINDOW) + 10, now
    with model.subscriber("organization_alert") as lines:
        send(sink, CUSTOMER_EVENTS, *[deployment(organization, event_ts=early)] * 6)
        send(
            sink,
            CUSTOMER_EVENTS,
            *[deployment(organization, event_ts=late, deployment_type="on_prem", customer_id=2)] * 7,
        )
        until(lambda: [row[3:] for row in model.alert(organization)] == [(13, 2)], "both types")
        until(lambda: [row[3:] for row in model.alert(organization)] == [(7, 1)], "one type")
        until(lambda: not model.alert(organization), "neither", within=WINDOW + SOON)
        until(lambda: not firing(lines, organization), "the end at the subscriber")
        found = changes(lines, organization)
    held = list(itertools.accumulate(diff for _, diff in found))
    assert held[-1] == 0
    assert max(held) == 1


def test_malformed_events_are_counted(model: Model, sink: KafkaSink) -> None:
    plan = Plan(rate=100, bid_rate=100, spike_interval=0, malformed=1, limit=400)
    malformed = [event for event in Schedule(plan).events(start=0) if event.kind is Kind.MALFORMED]
    counted = sum(event.value is not None for event in malformed)
    assert {event.topic for event in malformed} == set(TOPICS)
    rejected = "SELECT count(*) FROM {}.rejected_events"
    before = settled(lambda: model.run(rejected)[0][0])
    ended(produce("--rate", "100", "--bid-rate", "100", "--spike-interval", "0", "--malformed", "1", "--limit", "400"))
    until(lambda: model.run(rejected)[0][0] >= before + counted, f"{counted} rejected events")
    assert settled(lambda: model.run(rejected)[0][0]) == before + counted
    still_works(model, sink)


def settled(read: Callable[[], T]) -> T:
    """The value once it has not changed for some seconds: sources tick once a second."""
    last, since = read(), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.2)
        if (seen := read()) != last:
            last, since = seen, time.monotonic()
    return last


def still_works(model: Model, sink: KafkaSink) -> None:
    organization = model.organization()
    send(sink, CUSTOMER_EVENTS, *[deployment(organization)] * 6)
    until(lambda: model.alert(organization), "a row in a working view")
    for view in ("dim_deployments", "organization_alert", "active_alerts", "rejected_events"):
        model.run(f"SELECT * FROM {{}}.{view}")


def test_hostile_messages_are_rejected_with_reason(model: Model, sink: KafkaSink) -> None:
    sound = json.dumps(deployment("acme")).encode()
    hostile: dict[bytes, str] = {
        b"\xff\xfe": "not UTF-8",
        sound + b"\0": "not UTF-8",
        b"\xed\xa0\x80": "not UTF-8",
        b"": "not a flat JSON object",
        b"[1,2]": "not a flat JSON object",
        b'{"broken': "not a flat JSON object",
        b'{"a":1e999999}': "not a flat JSON object",
        b'{"a":{"b":1}}': "not a flat JSON object",
        b'{"a":"\\u0000"}': "not a flat JSON object",
        b'{"a":"\\ud83d"}': "not a flat JSON object",
        b"\xef\xbb\xbf" + sound: "not a flat JSON object",
        b"\xc2\xa0" + sound: "not a flat JSON object",
        sound + b"\x0b": "not a flat JSON object",
        sound + b"\xe2\x80\xa8": "not a flat JSON object",
        json.dumps(deployment("acme", customer_id="seven")).encode(): "customer_id is missing or invalid",
        json.dumps(deployment("acme", event_ts=99_999_999_999)).encode(): "event_ts is missing or invalid",
        json.dumps(deployment("acme", event_ts=9_999_999_999)).encode(): "event_ts is in the future",
        json.dumps(deployment("acme", customer_name="x" * 900_000)).encode(): "larger than 65536 bytes",
    }
    query = "SELECT reason, count(*) FROM {}.rejected_events WHERE topic = 'customer_events' GROUP BY reason"
    before: dict[str, int] = dict(settled(lambda: sorted(model.run(query))))
    send(sink, CUSTOMER_EVENTS, *hostile)
    reasons = list(hostile.values())
    expected = before | {reason: before.get(reason, 0) + reasons.count(reason) for reason in set(reasons)}
    until(lambda: dict(model.run(query)) == expected, f"rejected: {expected}")
    still_works(model, sink)


def test_rule_is_added_changed_and_removed(model: Model, sink: KafkaSink) -> None:
    item = f"item {secrets.token_hex(4)}"
    bid = {"auction_id": 1, "item": item, "amount": "50.00", "bidder": "Jo", "bid_ts": int(time.time())}
    send(sink, WINNING_BIDS, bid, bid | {"auction_id": 2, "amount": 50.01})

    def caught() -> list[Any]:
        query = (
            f"SELECT auction_id, price::text, severity FROM {{}}.active_alerts WHERE item_name = '{item}' ORDER BY 1"
        )
        return model.run(query)

    until(lambda: model.run(f"SELECT 1 FROM {{}}.winning_bids WHERE item = '{item}' AND auction_id = 2"), "the bids")
    assert caught() == []
    model.add_rule(item, "50")
    until(lambda: caught() == [(2, "50.01", "info")], "what sells for more, and not for the same", within=5)
    model.change_rule(item, "price_above = 10, severity = 'critical'")
    both = [(1, "50", "critical"), (2, "50.01", "critical")]
    until(lambda: [(a, p.removesuffix(".00"), s) for a, p, s in caught()] == both, "both", within=5)
    model.remove_rule(item)
    until(lambda: caught() == [], "nothing", within=5)


def test_raised_threshold_ends_spike(model: Model, sink: KafkaSink) -> None:
    organization = model.organization()
    send(sink, CUSTOMER_EVENTS, *[deployment(organization)] * 10)
    until(lambda: model.alert(organization), "the spike")
    model.set_threshold(organization, 20)
    until(lambda: not model.alert(organization), "its end", within=5)


def test_two_setups_at_once_leave_subscriber_alone(model: Model, sink: KafkaSink) -> None:
    with model.subscriber("organization_alert") as lines:
        both = [model.start() for _ in range(2)]
        printed = [ended(one) for one in both]
        assert not any("created" in text for text in printed), printed
        organization = model.organization()
        send(sink, CUSTOMER_EVENTS, *[deployment(organization)] * 6)
        until(lambda: any(organization in line for line in lines), "a row at the subscriber")
        assert not lines[-1].startswith("ended")


def test_changed_view_is_replaced_without_the_others(model: Model, sink: KafkaSink) -> None:
    with model.subscriber("organization_alert") as spikes, model.subscriber("active_alerts") as auctions:
        printed = model.setup("--bid-window", "4 minutes")
        assert [line.split()[0] for line in printed.splitlines() if line.endswith(" active_alerts")] == ["recreated"], (
            printed
        )
        until(lambda: auctions[-1].startswith("ended"), "the end of the replaced view's subscription")
        many = len(spikes)
        until(lambda: len(spikes) > many + 2, "more progress at the other one")
    with model.connect(user=model.role) as reader:  # the grant exists again
        reader.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(model.schema, "active_alerts")))
    model.setup()  # and back


def test_role_reads_only_alert_views(model: Model) -> None:
    try:
        checks = model.run("SHOW enable_rbac_checks")[0][0]
    except psycopg.Error:
        checks = "unknown"
    with model.connect(user=model.role) as reader:
        for view in ("organization_alert", "active_alerts", "rejected_events"):
            reader.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(model.schema, view)))
        if checks != "on":
            pytest.skip("the server does not check privileges (enable_rbac_checks)")
        for name in ("organizations", "dim_deployments", "customer_events_raw"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(model.schema, name)))


def test_setup_waits_for_missing_topic(model: Model, sink: KafkaSink) -> None:
    topic = f"tocsin_test_{secrets.token_hex(4)}"
    other = f"{model.schema}_late"
    # A connection without its topic, then the topic.
    setup = model.start("--schema", other, "--events-topic", topic)
    try:
        assert setup.stdout is not None
        printed = list(
            itertools.takewhile(lambda line: "waiting for the broker or the topic" not in line, setup.stdout)
        )
        assert any(line.startswith("created") for line in printed), printed
        sink.prepare([topic])
        rest = ended(setup)
        assert "customer_events_raw" in rest
    finally:
        if setup.poll() is None:
            setup.kill()
            setup.wait()
        model.run(f"DROP SCHEMA IF EXISTS {other} CASCADE")
        delete_topic(topic)
