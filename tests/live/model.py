"""The shipped SQL, producer and configuration on a real Materialize and a real Kafka broker.

TOCSIN_TEST_MATERIALIZE_DSN names the one, TOCSIN_TEST_KAFKA the other (host:port). Where Materialize reaches the broker
by another name, TOCSIN_TEST_KAFKA_FROM_MATERIALIZE says which.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.inbox_server import InboxServer, inbox_server
from support.notifications import LONG, until_ready
from support.stack import KEY_FILE, tocsin_config
from support.tcp_proxy import TcpProxy
from support.tocsin import TocsinProcess, running
from support.waiting import seen, until_some
from tocsin_producer.metrics import Metrics
from tocsin_producer.sinks.kafka import KafkaSink

DSN = os.environ.get("TOCSIN_TEST_MATERIALIZE_DSN", "")
KAFKA = os.environ.get("TOCSIN_TEST_KAFKA", "")
INNER_KAFKA = os.environ.get("TOCSIN_TEST_KAFKA_FROM_MATERIALIZE") or KAFKA
SETUP = Path(__file__).parents[2] / "materialize" / "setup.py"
CLUSTER, ROLE = "alerting", "tocsin"
MEASURED = "measured"
"""The property of a test under which it leaves a row of the table of measured values."""

VIEWS = ("dim_deployments", "organization_alert", "active_alerts", "rejected_events")

NEEDS_BOTH = [
    pytest.mark.live,
    pytest.mark.skipif(not (DSN and KAFKA), reason="needs TOCSIN_TEST_MATERIALIZE_DSN and TOCSIN_TEST_KAFKA"),
    pytest.mark.xdist_group("materialize_model"),
]
"""Marks of a module that needs both servers."""


def ended(process: subprocess.Popen[str]) -> str:
    """The output of a process that succeeds."""
    try:
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


class Model:
    """The model of `materialize/` in a schema."""

    def __init__(self, schema: str = "demo") -> None:
        self.schema = schema
        self._connection: psycopg.Connection[Any] | None = None

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start setup.py."""
        system = make_conninfo(DSN, user="mz_system", port=int(conninfo_to_dict(DSN).get("port") or 6875) + 2)
        options = ("--dsn", DSN, "--system-dsn", system, "--broker", INNER_KAFKA, "--timeout", "90s")
        command = [sys.executable, str(SETUP), *options, "--schema", self.schema, *arguments]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_SETUP_")}
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        return subprocess.Popen(command, env=environ, stdout=pipe, stderr=both, text=True, bufsize=1)

    def setup(self, *arguments: str) -> str:
        """Run setup.py, and return its output."""
        return ended(self.start(*arguments))

    def connect(self, **more: str) -> psycopg.Connection[Any]:
        dsn = make_conninfo(DSN, options=f"--cluster={CLUSTER}", **more)
        return psycopg.connect(dsn, autocommit=True, prepare_threshold=None)

    def run(self, statement: str) -> list[Any]:
        """Run a statement. `{}` is replaced by the schema."""
        if self._connection is None:
            self._connection = self.connect()
        text = statement.replace("{}", sql.Identifier(self.schema).as_string())
        cursor = self._connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []

    def until(self, query: str, *rows: tuple[Any, ...], within: float = LONG) -> None:
        """Wait until a query has this result."""
        seen(lambda: self.run(query) == list(rows), f"{query}: {rows}", within)

    def hydrated(self) -> None:
        """Wait until every view can be read."""

        def readable(view: str) -> bool:
            with suppress(psycopg.Error):
                self.run(f"SELECT count(*) FROM {{}}.{view}")
                return True
            return False

        for view in VIEWS:
            seen(lambda view=view: readable(view), f"{view} can be read", 2 * LONG)  # type: ignore[misc]

    def organization(self, threshold: int = 5) -> str:
        """A new organization, with the owner `owner-of-` it."""
        name = f"org-{secrets.token_hex(4)}"
        row = f"'{name}', 'owner-of-{name}', 'warning', {threshold}, 'x@example.com'"
        self.run(f"INSERT INTO {{}}.organizations VALUES ({row})")
        return name

    def add_rule(self, item: str, above: str) -> None:
        """Alert when an item sells for more. The rule has the name of the item."""
        self.run(f"INSERT INTO {{}}.auction_alerts VALUES ('{item}', '{item}', {above}, 'info')")

    def remove_rule(self, item: str) -> None:
        self.run(f"DELETE FROM {{}}.auction_alerts WHERE alert_name = '{item}'")

    def drop(self) -> None:
        self.run("DROP SCHEMA IF EXISTS {} CASCADE")
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@contextmanager
def shipped_model() -> Iterator[tuple[Model, str]]:
    """The shipped model, and what setup.py printed. At the end new schemas, clusters and roles are dropped; of an
    existing model, the rows that tests added."""
    model = Model()
    names = (("SCHEMA", model.schema), ("CLUSTER", CLUSTER), ("ROLE", ROLE))
    with psycopg.connect(DSN, autocommit=True) as admin:

        def exists(kind: str, name: str) -> bool:
            return (name,) in admin.execute(f"SELECT name FROM mz_catalog.mz_{kind.lower()}s".encode()).fetchall()

        new = [(kind, name) for kind, name in names if not exists(kind, name)]
        try:
            printed = model.setup()
            model.hydrated()
            yield model, printed
        finally:
            with suppress(psycopg.Error):
                model.run("DELETE FROM {}.organizations WHERE organization LIKE 'org-%'")
                model.run("DELETE FROM {}.auction_alerts WHERE alert_name LIKE 'item-%'")
            model.close()
            for kind, name in new:
                with suppress(psycopg.Error):
                    admin.execute(f"DROP {kind} {name}{' CASCADE' * (kind != 'ROLE')}".encode())


@contextmanager
def sending(metrics: Metrics | None = None) -> Iterator[KafkaSink]:
    """A sink of the producer to the broker. At the end everything is confirmed."""
    sink = KafkaSink(KAFKA, metrics=metrics or Metrics(), monotonic=time.monotonic, close_timeout=60)
    yield sink
    sink.close()


def send(sink: KafkaSink, topic: str, *messages: bytes | dict[str, Any]) -> None:
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


def bid(item: str, auction_id: int = 1, amount: str = "50") -> dict[str, Any]:
    """The fields of a winning bid. An amount that ends in no zero comes back as it was written."""
    return {"auction_id": auction_id, "item": item, "amount": amount, "bidder": "Jo", "bid_ts": int(time.time())}


def produce(*arguments: str) -> None:
    """Run the shipped producer; its schedule ends."""
    command = [sys.executable, "-m", "tocsin_producer", "--sink", "kafka", "--brokers", KAFKA, *arguments]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TOCSIN_PRODUCER_")}
    ended(subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))


def delete_topic(topic: str) -> None:
    """Delete a topic of a test, if the broker allows it."""
    for future in AdminClient({"bootstrap.servers": KAFKA, "log_level": 2}).delete_topics([topic]).values():
        with suppress(Exception):
            future.result(timeout=10)


@dataclass(slots=True, kw_only=True)
class Stack:
    """Tocsin with the shipped configuration, except for addresses and paths, and an inbox. `proxy` is between Tocsin
    and Materialize; `history`: the alert views keep theirs."""

    folder: Path
    model: Model
    history: bool
    inbox: InboxServer
    proxy: TcpProxy
    config: dict[str, Any]

    @asynccontextmanager
    async def tocsin(self) -> AsyncIterator[TocsinProcess]:
        """Start Tocsin and wait until it is ready."""
        async with running(self.folder, self.config) as process:
            await until_ready(process)
            yield process

    async def until_rows(self, query: str, *rows: tuple[Any, ...], within: float = LONG) -> None:
        """Wait until a query has this result. The inbox works meanwhile."""
        await asyncio.to_thread(self.model.until, query, *rows, within=within)

    def people(self, organization: str) -> Counter[str]:
        """The workflows of the messages to the owner of an organization, and the number of ids."""
        owner = f"owner-of-{organization}"
        return Counter(
            {flow: n for (who, flow, what), n in self.inbox.people().items() if (who, what) == (owner, organization)}
        )

    def audit(self, organization: str) -> Counter[str]:
        """Notifications to the audit about an organization: kind, and the number of ids."""
        return Counter({kind: n for (kind, what), n in self.inbox.audit().items() if what == organization})

    def sold(self, item: str) -> Counter[str]:
        """Notifications to the audit about an item: kind, and the number of ids."""
        bodies = [body for body in self.inbox.delivered("audit") if body["row"].get("item_name") == item]
        return Counter(kind for kind, _ in {(body["status"], body["id"]) for body in bodies})


async def until_gauge(
    tocsin: TocsinProcess, metric: str, value: float | None, within: float = LONG, **labels: str
) -> None:
    """Wait until the series with these labels, among others, have this value together; None: there are none."""

    async def probe() -> bool:
        found = await shown(tocsin, metric, **labels)
        assert found == value, f"{metric}{labels} is {found}, not {value}"
        return True

    await until_some(probe, within=within)


async def shown(tocsin: TocsinProcess, metric: str, **labels: str) -> float | None:
    """The sum of the series with these labels, among others; None where there are none."""
    found = [value for each, value in (await tocsin.gauge(metric)).items() if labels.items() <= dict(each).items()]
    return sum(found) if found else None


@asynccontextmanager
async def stacked(folder: Path, model: Model, *, history: bool) -> AsyncIterator[Stack]:
    """The stack without Tocsin. A further alert `spike` shows each row as 1, and for three seconds more as 0."""
    parts = conninfo_to_dict(DSN)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(str(parts["host"]), int(parts.get("port") or 6875)))
        inbox = await stack.enter_async_context(inbox_server(KEY_FILE.read_text(encoding="utf-8").strip()))
        source = {
            "host": "127.0.0.1",
            "port": proxy.port,
            "database": str(parts.get("dbname") or "materialize"),
            "sslmode": str(parts.get("sslmode") or "prefer"),
            "user": ROLE,
        }
        config = tocsin_config(folder, inbox.url, source)
        config["alerts"]["spike"] = {
            "source": "materialize",
            "relation": config["alerts"]["deployment_spike"]["relation"],
            "labels": ["organization", "alert_name"],
            "linger": "3s",
        }
        yield Stack(folder=folder, model=model, history=history, inbox=inbox, proxy=proxy, config=config)
