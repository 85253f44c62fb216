"""Each folder of examples/ is run against real servers, and a receiver on this machine in place of the service."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template

from support.alertmanager import ALERTMANAGER, Alertmanager, alertmanager
from support.kafka import make_topic, produce, shared_kafka
from support.materialize import MaterializeDouble
from support.postgres import Database, Postgres
from support.receiver import Receiver
from support.smtp import MailServer
from support.tocsin import TocsinProcess, running_with
from support.waiting import until_some

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def example(name: str, directory: Path, **environment: str) -> AsyncIterator[TocsinProcess]:
    """Tocsin on the configuration of an example, once it is ready."""
    file = directory / "tocsin.yaml"
    file.write_text((EXAMPLES / name / "tocsin.yaml").read_text() + '\nweb: {listen: "127.0.0.1:0"}\n')
    async with running_with(directory, "--config", str(file), file=file, **environment) as tocsin:
        await tocsin.until_ready()
        yield tocsin


async def prepare(database: Database, name: str) -> None:
    await database.run((EXAMPLES / name / "schema.sql").read_text())


def test_every_example_is_listed() -> None:
    folders = {folder.name for folder in EXAMPLES.iterdir() if folder.is_dir()}
    index = (EXAMPLES / "README.md").read_text()
    source = Path(__file__).read_text()
    assert {name for name in folders if f"({name})" in index and f'"{name}"' in source} == folders
    assert len(folders) == 5


async def test_late_orders_reach_slack(server: Postgres, tmp_path: Path) -> None:
    name = "late-orders-to-slack"
    async with server.database() as database, Receiver() as slack:
        await prepare(database, name)
        async with example(name, tmp_path, SHOP_DSN=database.dsn, SLACK_WEBHOOK_URL=slack.url) as tocsin:
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
    async with server.database() as database, Receiver() as pagerduty:
        await prepare(database, name)
        environment = {"BANK_DSN": database.dsn, "PAGERDUTY_URL": pagerduty.url, "PAGERDUTY_ROUTING_KEY": "r" * 32}
        async with example(name, tmp_path, INTERVAL="100ms", **environment):
            await database.run(
                "INSERT INTO payments (card, country, amount) SELECT 'dull', 'FR', 1 FROM generate_series(1, 9)"
            )
            await database.run(
                "INSERT INTO payments (card, country, amount) VALUES ('4711', 'FR', 80), ('4711', 'BR', 950)"
            )
            await pagerduty.arrived(1)
            await database.run("UPDATE payments SET paid_at = paid_at - interval '1 hour'")
            opened, closed = (request.json for request in await pagerduty.arrived(2))
    assert opened["event_action"] == "trigger"
    assert opened["routing_key"] == "r" * 32
    assert opened["payload"]["summary"] == "Card 4711: 2 payments, 1030.00 in BR, FR"
    assert opened["payload"]["severity"] == "critical"
    assert (closed["event_action"], closed["dedup_key"]) == ("resolve", opened["dedup_key"])


@pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")
async def test_slo_burn_is_an_alert_until_errors_end(server: Postgres, tmp_path: Path) -> None:
    name = "slo-burn-to-alertmanager"
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    async with server.database() as database, alertmanager(tmp_path, tmp_path / "alertmanager.yml") as manager:
        await prepare(database, name)
        await database.run("INSERT INTO objectives VALUES ('checkout', 0.999), ('search', 0.9)")
        environment = {"METRICS_DSN": database.dsn, "ALERTMANAGER_URL": manager.url}
        async with example(name, tmp_path, INTERVAL="100ms", **environment) as tocsin:
            await database.run("INSERT INTO requests SELECT service, now(), 1000, 50 FROM objectives")
            burning = await until_some(lambda: only_alert(manager))
            assert burning["labels"] == {"alertname": "ErrorBudgetBurn", "service": "checkout", "severity": "page"}
            assert burning["annotations"] == {"summary": "checkout burns its error budget 50.0 times too fast"}
            assert await tocsin.metric("slo_burn", service="checkout", severity="page") == 50
            await database.run("UPDATE requests SET minute = minute - interval '6 minutes', failed = 10")
            assert await database.run("SELECT severity, burn FROM slo_burn") == [("ticket", 10)]
            await database.run("UPDATE requests SET failed = 0")
            await until_some(lambda: no_alert(manager))


async def active(manager: Alertmanager) -> list[Any]:
    return [alert for alert in (await manager.alerts()).values() if alert["status"]["state"] == "active"]


async def only_alert(manager: Alertmanager) -> Any:
    [alert] = await active(manager) or [None]
    return alert


async def no_alert(manager: Alertmanager) -> bool:
    return not await active(manager)


async def test_kafka_events_reach_the_team_by_mail(tmp_path: Path) -> None:
    broker = shared_kafka()
    make_topic(broker, "payments.failed")

    def fail(payment: int, team: str) -> None:
        produce(
            broker, "payments.failed", [(None, json.dumps({"payment": payment, "team": team, "error": "declined"}))]
        )

    async with MailServer() as server:
        environment = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(server.port), "SMTP_SECURITY": "none"}
        async with example(
            "kafka-events-to-mail", tmp_path, KAFKA_BROKERS=broker.brokers, DIGEST="500ms", **environment
        ):
            fail(1, "checkout")
            await server.arrived(1)
            for payment in (1, 2, 3):
                fail(payment, "checkout")
            fail(4, "refunds")
            mails = [(mail.recipients, mail.part("plain")) for mail in await server.arrived(3)]
    texts = dict(mails[1:])
    assert mails[0][0] == ("checkout@example.com",)
    assert "Payment 1 failed: declined" in mails[0][1]
    assert "Payment 4 failed" in texts["refunds@example.com",]
    digest = texts["checkout@example.com",]
    assert [f"Payment {payment} failed" in digest for payment in (1, 2, 3)] == [False, True, True]


async def test_dbt_models_and_tests_fire_through_a_deployment(server: Postgres, tmp_path: Path) -> None:
    folder = EXAMPLES / "dbt-materialize"
    columns = {}
    async with server.database() as database:
        await database.run("CREATE TABLE orders (id int, customer text)")
        await database.run("CREATE TABLE shipments (id int, order_id int, due_at timestamptz, arrived_at timestamptz)")
        await database.run("INSERT INTO orders VALUES (1, 'Ann')")
        await database.run(
            "INSERT INTO shipments SELECT n, n, now() - interval '1 hour' FROM generate_series(1, 2) AS n"
        )
        for file in ("models/late_shipments.sql", "tests/shipments_without_order.sql"):
            text = Template((folder / file).read_text()).render(config=lambda **_: "", source=lambda _, table: table)
            view = Path(file).stem
            await database.run(f"CREATE VIEW {view} AS {text.replace('mz_now()', 'now()')}")
            assert await database.run(f"SELECT shipment_id FROM {view}") == [(2 if "without" in view else 1,)]
            columns[view] = await database.run(
                "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
                f"WHERE attrelid = '{view}'::regclass ORDER BY attnum"
            )
    async with (
        MaterializeDouble(progress_interval=0.1, clusters=("quickstart", "alerting")) as double,
        Receiver() as hook,
    ):
        late = double.create("ops.late_shipments", columns["late_shipments"])
        failures = double.create("ops_etl_failure.shipments_without_order", columns["shipments_without_order"])
        environment = {"MATERIALIZE_DSN": double.dsn, "WEBHOOK_URL": hook.url}
        async with example(folder.name, tmp_path, **environment):
            late.insert(("1", "Ann", "2026-01-01 00:00:00+00"))
            failures.insert(("2", "2"))
            await hook.arrived(2)
            green = [("1", "Ann", "2026-01-01 00:00:00+00"), ("3", "Bob", "2026-01-01 00:00:00+00")]
            double.create("ops_dbt_deploy.late_shipments", columns["late_shipments"], rows=green)
            double.swap_schemas("ops", "ops_dbt_deploy")
            bodies = [request.json for request in await hook.arrived(3)]
    summaries = {(body["status"], body["annotations"]["summary"].split(" was")[0]) for body in bodies}
    assert summaries == {
        ("fired", "Shipment 1 for Ann"),
        ("fired", "Shipment 2 has no order 2"),
        ("fired", "Shipment 3 for Bob"),
    }
