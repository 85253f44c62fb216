"""`materialize/` on a live Materialize and a live broker: what setup.py makes, and the guards of the casts."""

import itertools
import json
import secrets

import psycopg
import pytest

from live.model import NEEDS_BOTH, ROLE, VIEWS, Model, delete_topic, deployment, ended, send
from support.waiting import seen
from tocsin_producer.events import CUSTOMER_EVENTS
from tocsin_producer.sinks.kafka import KafkaSink

pytestmark = [*NEEDS_BOTH, pytest.mark.timeout(240)]

ALERTS = VIEWS[1:]


def objects(model: Model, columns: str, condition: str = "true") -> dict[str, str]:
    """Name -> a column of the catalog, of the objects in the schema."""
    return dict(
        model.run(
            f"SELECT o.name, {columns} FROM mz_catalog.mz_objects AS o "
            "JOIN mz_catalog.mz_schemas AS s ON s.id = o.schema_id "
            "LEFT JOIN mz_internal.mz_history_retention_strategies AS h ON h.id = o.id "
            "LEFT JOIN mz_internal.mz_comments AS c "
            "ON c.id = o.id AND c.object_type = o.type AND c.object_sub_id IS NULL "
            f"WHERE s.name = '{model.schema}' AND {condition}"
        )
    )


def test_every_object_has_a_comment(model: Model) -> None:
    assert objects(model, "o.type", "c.comment IS NULL AND o.name NOT LIKE '%_progress'") == {}


def test_alert_views_retain_history_if_allowed(shipped: tuple[Model, str]) -> None:
    model, printed = shipped
    kept = objects(model, "h.value::text", "o.type = 'materialized-view'")
    refused = "skipped    alter materialized view" in printed
    assert {kept[view] for view in ALERTS} == {"1000" if refused else "3600000"}


def test_changed_view_is_recreated_without_the_others(model: Model) -> None:
    before = objects(model, "o.id")
    printed = model.setup("--bid-window", "4 minutes")
    after = objects(model, "o.id")
    assert {name for name in after if after[name] != before.get(name)} == {"active_alerts"}
    assert "recreated  materialized view active_alerts" in printed
    with model.connect(user=ROLE) as reader:  # the grant exists again
        reader.execute(f"SELECT * FROM {model.schema}.active_alerts LIMIT 0".encode())
    model.setup()  # and back


def test_role_reads_only_alert_views(model: Model) -> None:
    [(checks,)] = model.run("SHOW enable_rbac_checks")
    with model.connect(user=ROLE) as reader:
        for view in ALERTS:
            reader.execute(f"SELECT * FROM {model.schema}.{view} LIMIT 0".encode())
        if checks != "on":
            pytest.skip("the server does not check privileges (enable_rbac_checks)")
        for name in ("organizations", "dim_deployments", "customer_events_raw"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"SELECT * FROM {model.schema}.{name} LIMIT 0".encode())


def test_setup_waits_for_missing_topic(model: Model, sink: KafkaSink) -> None:
    topic = f"tocsin_test_{secrets.token_hex(4)}"
    other = Model(f"{model.schema}_late_{secrets.token_hex(4)}")
    # A connection without its topic, then the topic.
    setup = other.start("--events-topic", topic)
    try:
        assert setup.stdout is not None
        printed = list(
            itertools.takewhile(lambda line: "waiting for the broker or the topic" not in line, setup.stdout)
        )
        assert any(line.startswith("created") for line in printed), printed
        sink.prepare([topic])
        assert "customer_events_raw" in ended(setup)
    finally:
        setup.kill()
        setup.wait()
        other.drop()
        delete_topic(topic)


def test_hostile_messages_are_rejected_with_reason(model: Model, sink: KafkaSink) -> None:
    """Each would break a view if the server cast it."""
    sound = json.dumps(deployment("acme")).encode()
    hostile: dict[str, list[bytes]] = {
        "not UTF-8": [b"\xff\xfe", sound + b"\0", b"\xed\xa0\x80"],
        "not a flat JSON object": [
            *(b"", b"[1,2]", b'{"broken', b'{"a":1e999999}', b'{"a":{"b":1}}', b'{"a":"\\u0000"}', b'{"a":"\\ud83d"}'),
            *(b"\xef\xbb\xbf" + sound, b"\xc2\xa0" + sound, sound + b"\x0b", sound + b"\xe2\x80\xa8"),
        ],
        "customer_id is missing or invalid": [json.dumps(deployment("acme", customer_id="seven")).encode()],
        "event_ts is missing or invalid": [json.dumps(deployment("acme", event_ts=99_999_999_999)).encode()],
        "event_ts is in the future": [json.dumps(deployment("acme", event_ts=9_999_999_999)).encode()],
        "larger than 65536 bytes": [json.dumps(deployment("acme", customer_name="x" * 900_000)).encode()],
    }
    query = f"SELECT reason, count(*) FROM {{}}.rejected_events WHERE topic = '{CUSTOMER_EVENTS}' GROUP BY reason"
    before: dict[str, int] = dict(model.run(query))
    for messages in hostile.values():
        send(sink, CUSTOMER_EVENTS, *messages)
    expected = before | {reason: before.get(reason, 0) + len(messages) for reason, messages in hostile.items()}
    seen(lambda: dict(model.run(query)) == expected, f"rejected: {expected}", 60)
    for view in VIEWS:
        model.run(f"SELECT * FROM {{}}.{view}")
