"""The shipped SQL and the shipped producer, on a real Materialize and a real Kafka broker.

TOCSIN_TEST_MATERIALIZE_DSN names the one, TOCSIN_TEST_KAFKA the other (host:port). Where Materialize reaches the broker
by another name, TOCSIN_TEST_KAFKA_FROM_MATERIALIZE says which.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.waiting import seen
from tocsin_producer.metrics import Metrics
from tocsin_producer.sinks.kafka import KafkaSink

DSN = os.environ.get("TOCSIN_TEST_MATERIALIZE_DSN", "")
KAFKA = os.environ.get("TOCSIN_TEST_KAFKA", "")
INNER_KAFKA = os.environ.get("TOCSIN_TEST_KAFKA_FROM_MATERIALIZE") or KAFKA
MATERIALIZE = Path(__file__).parents[2] / "materialize"
SOON = 30.0

NEEDS_BOTH = [
    pytest.mark.live,
    pytest.mark.skipif(not (DSN and KAFKA), reason="needs TOCSIN_TEST_MATERIALIZE_DSN and TOCSIN_TEST_KAFKA"),
    pytest.mark.xdist_group("materialize_model"),
]
"""Marks of a module that needs both servers."""

MEASURED = "measured"
"""The property of a test under which it leaves a row of the table of what was measured."""

T = TypeVar("T")


def until(probe: Callable[[], T | None], what: str, within: float = SOON) -> T:
    """As `support.waiting.seen`, with the timeout of live servers."""
    return seen(probe, what, within)


def ended(process: subprocess.Popen[str]) -> str:
    """Return the output of a process that succeeds."""
    try:
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


class Model:
    """A model in the database.

    Args:
        name: of its schema, cluster and role; None for those that are shipped.
        schema: of the schema alone.
        settings: further variables of setup.py, by their names.
    """

    def __init__(self, name: str | None = None, *, schema: str | None = None, **settings: str) -> None:
        self.schema = schema or name or "demo"
        self.cluster = name or "alerting"
        self.role = name or "tocsin"
        self.connection: psycopg.Connection[Any] | None = None
        port = int(conninfo_to_dict(DSN).get("port") or 6875)
        given = {
            "DSN": DSN,
            "SYSTEM_DSN": make_conninfo(DSN, user="mz_system", port=port + 2),
            "BROKER": INNER_KAFKA,
            "TIMEOUT": "90s",
            "SCHEMA": self.schema,
            "CLUSTER": self.cluster,
            "ROLE": self.role,
            **{key.upper(): value for key, value in settings.items()},
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_SETUP_")}
        self._environ = inherited | {f"TOCSIN_SETUP_{key}": value for key, value in given.items()}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start setup.py."""
        command = [sys.executable, str(MATERIALIZE / "setup.py"), *arguments]
        return subprocess.Popen(
            command, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def setup(self, *arguments: str) -> str:
        """Run setup.py, and return what it printed."""
        return ended(self.start(*arguments))

    def add_rule(self, item: str, above: str) -> None:
        """Alert when an item sells for more. The rule has the name of the item."""
        self.run(f"INSERT INTO {{}}.auction_alerts VALUES ('{item}', '{item}', {above}, 'info')")

    def change_rule(self, item: str, change: str) -> None:
        self.run(f"UPDATE {{}}.auction_alerts SET {change} WHERE alert_name = '{item}'")

    def remove_rule(self, item: str) -> None:
        self.run(f"DELETE FROM {{}}.auction_alerts WHERE alert_name = '{item}'")

    def set_threshold(self, organization: str, threshold: int) -> None:
        self.run(f"UPDATE {{}}.organizations SET threshold = {threshold} WHERE organization = '{organization}'")

    def connect(self, **more: str) -> psycopg.Connection[Any]:
        options = "--cluster=" + self.cluster.replace("\\", r"\\").replace(" ", r"\ ")
        return psycopg.connect(make_conninfo(DSN, options=options, **more), autocommit=True, prepare_threshold=None)

    def run(self, statement: str) -> list[Any]:
        """Run a statement. `{}` is replaced by the schema."""
        if self.connection is None:
            self.connection = self.connect()
        text = statement.replace("{}", sql.Identifier(self.schema).as_string())
        cursor = self.connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []

    def hydrated(self, within: float = 120.0) -> None:
        """Wait until every view can be read: a source that was just made, and a view above it, have to come up."""

        def readable(view: str) -> bool:
            try:
                self.run(f"SELECT count(*) FROM {{}}.{view}")
            except psycopg.Error:
                return False
            return True

        for view in ("dim_deployments", "organization_alert", "active_alerts", "rejected_events"):
            until(lambda view=view: readable(view), f"{view} can be read", within)  # type: ignore[misc]

    def alert(self, organization: str) -> list[Any]:
        columns = "alert_name, severity, owner, deployment_cnt, customer_cnt"
        return self.run(f"SELECT {columns} FROM {{}}.organization_alert WHERE organization = '{organization}'")

    def organization(self, threshold: int = 5) -> str:
        """An organization of the test's own, with an owner `owner-of-` it."""
        name = f"org-{secrets.token_hex(4)}"
        row = f"'{name}', 'owner-of-{name}', 'warning', {threshold}, 'x@example.com'"
        self.run(f"INSERT INTO {{}}.organizations VALUES ({row})")
        return name

    @contextmanager
    def subscriber(self, view: str) -> Iterator[list[str]]:
        """Lines of a subscription as they come; the last one is "ended: ..." once it has ended."""
        lines: list[str] = []
        connection = self.connect()
        relation = sql.Identifier(self.schema, view).as_string()

        def read() -> None:
            try:
                with connection.cursor().copy(
                    f"COPY (SUBSCRIBE {relation} WITH (PROGRESS)) TO STDOUT".encode()
                ) as copy:
                    for data in copy:
                        lines.extend(bytes(data).decode().splitlines())
                lines.append("ended: in order")
            except psycopg.Error as error:
                lines.append(f"ended: {error}")

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            until(lambda: len(lines) > 1, "first progress", within=60)
            yield lines
        finally:
            connection.cancel_safe()
            thread.join(10)
            connection.close()


@contextmanager
def made(model: Model) -> Iterator[str]:
    """Let setup.py make a model; gives what it printed. What was not there before is dropped in the end, and rows that
    tests added to the tables of a model that was there are taken back."""
    with psycopg.connect(DSN, autocommit=True) as admin:
        before = {
            kind: (name,) in admin.execute(f"SELECT name FROM mz_catalog.mz_{kind}s".encode()).fetchall()
            for kind, name in (("schema", model.schema), ("cluster", model.cluster), ("role", model.role))
        }
    try:
        yield model.setup()
    finally:
        if before["schema"]:
            with suppress(psycopg.Error):
                model.run("DELETE FROM {}.organizations WHERE organization LIKE 'org-%'")
                model.run("DELETE FROM {}.auction_alerts WHERE alert_name LIKE 'item-%'")
        if model.connection is not None:
            model.connection.close()
        names = {"schema": model.schema, "cluster": model.cluster, "role": model.role}
        with psycopg.connect(DSN, autocommit=True) as admin:
            for kind in (kind for kind, there in before.items() if not there):
                cascade = "" if kind == "role" else " CASCADE"
                statement = sql.SQL(f"DROP {kind.upper()} {{}}{cascade}").format(sql.Identifier(names[kind]))
                with suppress(psycopg.Error):
                    admin.execute(statement)


def changes(lines: Sequence[str], organization: str) -> list[tuple[int, int]]:
    """Timestamps and differences of an organization's rows, up to the last progress; of a timestamp, the retractions
    first."""
    rows = [line.split("\t") for line in lines]
    closed = max(position for position, row in enumerate(rows) if row[1:2] == ["t"])
    return sorted((int(row[0]), int(row[2])) for row in rows[:closed] if row[1:2] == ["f"] and organization in row)


def firing(lines: Sequence[str], organization: str) -> bool:
    """Whether an organization has a row in what a subscriber was sent."""
    return sum(diff for _, diff in changes(lines, organization)) > 0


@contextmanager
def sending(metrics: Metrics | None = None) -> Iterator[KafkaSink]:
    """A sink of the producer's at the broker. At the end everything is confirmed."""
    sink = KafkaSink(KAFKA, metrics=metrics or Metrics(), monotonic=time.monotonic, close_timeout=60)
    yield sink
    sink.close()


def send(sink: KafkaSink, topic: str, *messages: bytes | dict[str, Any] | None) -> None:
    """Send messages as they are, or as JSON."""
    for message in messages:
        sink.send(topic, b"1", json.dumps(message).encode() if isinstance(message, dict) else message)
    sink.flush()


def deployment(organization: str, **other: Any) -> dict[str, Any]:
    """The fields of an event."""
    return {
        "customer_id": 1,
        "customer_name": "Zoë \U0001f355",
        "deployment_type": "cloud",
        "organization": organization,
        "event_type": "deployment_created",
        "event_ts": int(time.time()),
    } | other


def bid(item: str, auction_id: int = 1, amount: str = "50", **other: Any) -> dict[str, Any]:
    """The fields of a winning bid. An amount that ends in no zero comes back as it was written."""
    now = int(time.time())
    return {"auction_id": auction_id, "item": item, "amount": amount, "bidder": "Jo", "bid_ts": now} | other


def produce(*arguments: str) -> subprocess.Popen[str]:
    """Start the shipped producer; its schedule ends."""
    command = [sys.executable, "-m", "tocsin_producer", "--sink", "kafka", "--brokers", KAFKA, *arguments]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_PRODUCER_")}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def tapped(topic: str) -> Iterator[Callable[[], list[bytes | None]]]:
    """Gives a function that returns the values that have come into a topic since the beginning of the block."""
    found: list[bytes | None] = []
    settings = {"bootstrap.servers": KAFKA, "group.id": f"tocsin-test-{secrets.token_hex(4)}", "log_level": 2}
    with closing(Consumer({**settings, "enable.auto.commit": False})) as consumer:
        places = [
            TopicPartition(topic, each) for each in consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ]
        for place in places:
            place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
        consumer.assign(places)

        def read() -> list[bytes | None]:
            while (message := consumer.poll(0.2)) is not None:
                if message.error() is None:
                    found.append(message.value())
            return found

        yield read


def delete_topic(topic: str) -> None:
    """Delete a topic of a test, if the broker allows it."""
    for future in AdminClient({"bootstrap.servers": KAFKA, "log_level": 2}).delete_topics([topic]).values():
        with suppress(Exception):
            future.result(timeout=10)
