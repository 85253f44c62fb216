"""Each folder of examples/ is run against real servers, and a receiver on this machine in place of the service."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from support.alertmanager import alertmanager
from support.examples import EXAMPLES, example
from support.kafka import make_topic, produce, shared_kafka
from support.materialize import MaterializeDouble
from support.postgres import Database, Postgres
from support.receiver import Answer, Receiver
from support.smtp import MailServer
from support.tocsin import command
from support.waiting import until_some

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def prepared(server: Postgres, name: str) -> AsyncIterator[Database]:
    """A database with the schema of an example."""
    async with server.database() as database:
        await database.run((EXAMPLES / name / "schema.sql").read_text())
        yield database


def test_every_example_is_listed() -> None:
    folders = {folder.name for folder in EXAMPLES.iterdir() if folder.is_dir()}
    index, source = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    assert {name for name in folders if f"({name}/README.md)" in index and f'"{name}"' in source} == folders


async def test_late_orders_reach_slack(server: Postgres, tmp_path: Path) -> None:
    name = "late-orders-to-slack"
    async with (
        prepared(server, name) as database,
        Receiver() as slack,
        example(name, tmp_path, SHOP_DSN=database.dsn, SLACK_WEBHOOK_URL=slack.url) as tocsin,
    ):
        await database.run("INSERT INTO orders VALUES (17, '<Ann>', now() - interval '20 minutes')")
        await slack.arrived(1)
        assert await tocsin.metric("late_orders", order_id="17", customer="<Ann>") == 20
        await database.run("UPDATE orders SET delivered_at = now()")
        late, delivered = (request.json for request in await slack.arrived(2))
    assert late["text"] == "Order 17 of <Ann> is 20 minutes late"
    assert late["blocks"][0]["text"]["text"] == "🔴 Order 17 of &lt;Ann&gt; is 20 minutes late"
    assert delivered["text"] == "Order 17 of <Ann> is delivered"


async def test_fraud_opens_and_closes_an_incident(server: Postgres, tmp_path: Path) -> None:
    name = "fraud-to-pagerduty"
    async with prepared(server, name) as database, Receiver() as pagerduty:
        environment = {"BANK_DSN": database.dsn, "PAGERDUTY_URL": pagerduty.url, "PAGERDUTY_ROUTING_KEY": "r" * 32}
        async with example(name, tmp_path, **environment):
            payments = "INSERT INTO payments (card, country, amount) "
            await database.run(payments + "SELECT 'dull', 'FR', 1 FROM generate_series(1, 9)")
            await database.run(payments + "VALUES ('4711', 'FR', 80), ('4711', 'BR', 950)")
            await pagerduty.arrived(1)
            await database.run("UPDATE payments SET paid_at = paid_at - interval '1 hour'")
            opened, closed = (request.json for request in await pagerduty.arrived(2))
    assert (opened["event_action"], opened["routing_key"]) == ("trigger", "r" * 32)
    assert opened["payload"]["summary"] == "Card 4711: 2 payments, 1030.00 in BR, FR"
    assert opened["payload"]["severity"] == "critical"
    assert (closed["event_action"], closed["dedup_key"]) == ("resolve", opened["dedup_key"])


async def test_slo_burn_is_an_alert_until_errors_end(server: Postgres, tmp_path: Path) -> None:
    name = "slo-burn-to-alertmanager"
    file = tmp_path / "alertmanager.yml"
    file.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    async with prepared(server, name) as database, alertmanager(tmp_path, file) as manager:

        async def active(count: int) -> list[Any]:
            found = [alert for alert in (await manager.alerts()).values() if alert["status"]["state"] == "active"]
            assert len(found) == count
            return [True, *found]

        await database.run("INSERT INTO objectives VALUES ('checkout', 0.999), ('search', 0.9)")
        async with example(name, tmp_path, METRICS_DSN=database.dsn, ALERTMANAGER_URL=manager.url) as tocsin:
            await database.run("INSERT INTO requests SELECT service, now(), 1000, 50 FROM objectives")
            _, burning = await until_some(lambda: active(1))
            assert burning["labels"] == {"alertname": "ErrorBudgetBurn", "service": "checkout", "severity": "page"}
            assert burning["annotations"] == {"summary": "checkout burns its error budget 50.0 times too fast"}
            assert await tocsin.metric("slo_burn", service="checkout", severity="page") == 50
            await database.run("UPDATE requests SET minute = minute - interval '6 minutes', failed = 10")
            assert await database.run("SELECT severity, burn FROM slo_burn") == [("ticket", 10)]
            await database.run("UPDATE requests SET failed = 0")
            await until_some(lambda: active(0))


async def test_kafka_events_reach_the_team_by_mail(tmp_path: Path) -> None:
    name, broker = "kafka-events-to-mail", shared_kafka()
    make_topic(broker, "payments.failed")

    def fail(*payments: tuple[int, str]) -> None:
        events = ({"payment": payment, "team": team, "error": "declined"} for payment, team in payments)
        produce(broker, "payments.failed", [(None, json.dumps(event)) for event in events])

    async with MailServer() as server:
        environment = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(server.port), "SMTP_SECURITY": "none"}
        async with example(name, tmp_path, KAFKA_BROKERS=broker.brokers, DIGEST="500ms", **environment):
            fail((1, "checkout"))
            await server.arrived(1)
            fail((1, "checkout"), (2, "checkout"), (3, "checkout"), (4, "refunds"))
            first, *rest = [(mail.recipients, mail.part("plain")) for mail in await server.arrived(3)]
    texts = dict(rest)
    assert first[0] == ("checkout@example.com",)
    assert "Payment 1 failed: declined" in first[1]
    assert "Payment 4 failed" in texts["refunds@example.com",]
    digest = texts["checkout@example.com",]
    assert [f"Payment {payment} failed" in digest for payment in (1, 2, 3)] == [False, True, True]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the package of the example, installed."""
    folder = tmp_path / "installed"
    package = EXAMPLES / "custom-channel"
    uv: list[str | Path] = [
        "pip",
        "install",
        "--offline",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        folder,
        package,
    ]
    done = subprocess.run([Path(sys.executable).with_name("uv"), *uv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


async def test_package_adds_a_channel_and_a_source(installed: Path, tmp_path: Path) -> None:
    name, folder = "custom-channel", tmp_path / "exchange" / "rejected"
    folder.mkdir(parents=True)
    async with Receiver() as chat:
        chat.script(Answer(status=503))
        environment = {"EXCHANGE": str(folder.parent), "CHAT_URL": f"{chat.url}/a-key", "PYTHONPATH": str(installed)}
        async with example(name, tmp_path, **environment) as tocsin:
            (folder / "orders.csv").write_text("17;Ann\n")
            await chat.arrived(2)
            assert await tocsin.metric("rejected_files", name="orders.csv") == 7
            (folder / "orders.csv").unlink()
            refused, rejected, removed = (request.json for request in await chat.arrived(3))
            folder.rmdir()
            await tocsin.until_not_ready("rejected: cannot be read: No such file or directory; create the folder")
            status, shown, _ = await command(tmp_path, "check", "--show", **environment)
            tested, _, why = await command(tmp_path, "test", str(EXAMPLES / name / "tocsin_test.yaml"), **environment)
            log = "".join(tocsin.log)
    assert refused == rejected
    assert [rejected["text"], removed["text"]] == ["orders.csv was rejected", "orders.csv was removed"]
    assert (rejected["room"], rejected["key"] != removed["key"]) == ("operations", True)
    assert (status, tested) == (0, 0), why
    assert "type: mychat" in shown
    assert "a-key" not in shown + log


async def test_dbt_models_and_tests_fire_through_a_deployment(server: Postgres, tmp_path: Path) -> None:
    name = "dbt-materialize"
    columns = {}
    async with server.database() as database:
        await database.run("CREATE TABLE orders (id int, customer text)")
        await database.run("CREATE TABLE shipments (id int, order_id int, due_at timestamptz, arrived_at timestamptz)")
        await database.run("INSERT INTO orders VALUES (1, 'Ann')")
        late = "INSERT INTO shipments SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 2) AS n"
        await database.run(late)
        for file, expected in (("models/late_shipments.sql", 1), ("tests/shipments_without_order.sql", 2)):
            template = Template((EXAMPLES / name / file).read_text())
            text = template.render(config=lambda **_: "", source=lambda _, table: table)
            view = Path(file).stem
            await database.run(f"CREATE VIEW {view} AS {text.replace('mz_now()', 'now()')}")
            assert await database.run(f"SELECT shipment_id FROM {view}") == [(expected,)]
            columns[view] = await database.run(
                "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
                f"WHERE attrelid = '{view}'::regclass ORDER BY attnum"
            )
    double = MaterializeDouble(progress_interval=0.1, clusters=("quickstart", "alerting"))
    async with double, Receiver() as hook:
        ann, bob = ("1", "Ann", "2026-01-01 00:00:00+00"), ("3", "Bob", "2026-01-01 00:00:00+00")
        blue = double.create("ops.late_shipments", columns["late_shipments"])
        failures = double.create("ops_etl_failure.shipments_without_order", columns["shipments_without_order"])
        async with example(name, tmp_path, MATERIALIZE_DSN=double.dsn, WEBHOOK_URL=hook.url):
            blue.insert(ann)
            failures.insert(("2", "2"))
            await hook.arrived(2)
            double.create("ops_dbt_deploy.late_shipments", columns["late_shipments"], rows=[ann, bob])
            double.swap_schemas("ops", "ops_dbt_deploy")
            bodies = [request.json for request in await hook.arrived(3)]
    assert {(body["status"], body["annotations"]["summary"].split(" was")[0]) for body in bodies} == {
        ("fired", "Shipment 1 for Ann"),
        ("fired", "Shipment 2 has no order 2"),
        ("fired", "Shipment 3 for Bob"),
    }
