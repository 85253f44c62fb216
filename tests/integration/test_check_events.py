"""What `tocsin check --online` reports about the columns of events, against real servers."""

import json
from pathlib import Path
from typing import Any

from support import events_table
from support.kafka import committed, new_topic, produce, shared_kafka
from support.postgres import Database
from support.tocsin import command, write


def config(database: Database, **alert: Any) -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": "ledger.db"},
        "sources": {"shop": {"type": "postgres_events", "dsn": database.dsn}},
        "channels": {
            "line": {"type": "console", "format": "json"},
            "hook": {"type": "webhook", "url": "http://127.0.0.1:9/x", "body": {"t": "{{ row.nope }}"}},
        },
        "alerts": {"order_failed": {"source": "shop", "notify": ["line"], **alert}},
    }


async def checked(directory: Path, whole: dict[str, Any]) -> dict[str, str]:
    """The problems of `check --online`: path -> message."""
    file = write(directory / "tocsin.yaml", whole)
    status, output, errors = await command(directory, "check", "--online", "--json", "--config", str(file))
    found = {problem["path"]: problem["message"] for problem in json.loads(output)["problems"]}
    assert (status, errors) == (1 if found else 0, "")
    return found


async def test_columns_that_the_events_table_lacks_are_named(database: Database, tmp_path: Path) -> None:
    """Every place of an alert on events that names a column, before there is any event and with one."""
    wrong = {
        "labels": ["custmer"],
        "key": ["cust"],
        "dedupe_by": ["customer"],
        "annotations": {"summary": "{{ row.nope }}"},
        "notify": [{"channel": "line", "when": 'row.severty == "page"'}, "hook"],
    }
    await events_table.made(database)
    empty = await checked(tmp_path, config(database, **wrong))
    insert = "INSERT INTO events (name, data) VALUES ('order_failed', '{\"customer\": \"c1\"}'), ('other', '{}')"
    await database.run(insert)
    held = await checked(tmp_path, config(database, **wrong))
    at = "alerts.order_failed"
    places = [f"{at}.labels.custmer", f"{at}.key[0]", f"{at}.dedupe_by[0]", f"{at}.annotations.summary"]
    assert sorted(held) == sorted(empty) == sorted([*places, f"{at}.notify[0].when", "channels.hook.body.t"])
    assert held[f"{at}.dedupe_by[0]"] == "there is no column 'customer' (there are id, name, data)"
    right = {"labels": {"customer": "data.customer"}, "dedupe_by": ["data.customer"], "key": ["name"]}
    assert await checked(tmp_path, config(database, **right)) == {}


def of_topic(topic: str, **alert: Any) -> dict[str, Any]:
    kafka = {"type": "kafka", "bootstrap_servers": [shared_kafka().brokers], "group": f"{topic}-group"}
    return {
        "sources": {"broker": kafka},
        "channels": {"line": {"type": "console"}},
        "alerts": {"paid": {"source": "broker", "topic": topic, "notify": ["line"], **alert}},
    }


async def test_columns_that_the_latest_records_lack_are_named(tmp_path: Path) -> None:
    """A field that any of the latest records has is a column; the group and its offsets stay as they are."""
    topic = new_topic(shared_kafka(), partitions=3)
    wrong = {"dedupe_by": ["custmer"], "key": ["note"], "labels": ["total"], "value": "data.size"}
    assert await checked(tmp_path, of_topic(topic, **wrong)) == {}, "nothing is known of an empty topic"
    records: list[dict[str, Any]] = [{"customer": f"c{n}", "data": {"n": n}} for n in range(250)]
    records[200]["note"] = "only here"
    produce(shared_kafka(), topic, [("k", json.dumps(one), n % 3) for n, one in enumerate(records)])
    produce(shared_kafka(), topic, [("k", "no JSON", 0)])
    at = "alerts.paid"
    found = await checked(tmp_path, of_topic(topic, **wrong))
    assert sorted(found) == [f"{at}.dedupe_by[0]", f"{at}.labels.total", f"{at}.value"]
    assert found[f"{at}.dedupe_by[0]"] == (
        "there is no column 'custmer' in the latest records (up to 100) of the topic (there are customer, data, note);"
        " did you mean customer?"
    )
    assert found[f"{at}.value"].startswith("there is no field 'size' in data")
    templates = {"annotations": {"summary": "{{ row.nope }}"}}
    assert sorted(await checked(tmp_path, of_topic(topic, **templates))) == [f"{at}.annotations.summary"]
    right = {"dedupe_by": ["customer", "data.n"], "key": ["note"], "annotations": {"summary": "{{ row.note }}"}}
    assert await checked(tmp_path, of_topic(topic, **right)) == {}
    assert committed(shared_kafka(), f"{topic}-group", topic, 3) == [-1001] * 3
