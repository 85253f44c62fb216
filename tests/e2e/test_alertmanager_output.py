"""Rows of a view in a real Alertmanager, through a crash and a reload of Tocsin."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.alertmanager import Alertmanager, alertmanager
from support.tocsin import COLUMNS, Harness, new_harness
from support.waiting import until_some

pytestmark = pytest.mark.e2e
QUIET = "route: {receiver: none}\nreceivers: [{name: none}]\n"


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"))
        made.alert["annotations"] = {"summary": "Order {{ row.id }} of {{ labels.name }}"}
        yield made


@pytest.fixture
async def manager(tmp_path: Path, harness: Harness) -> AsyncIterator[Alertmanager]:
    (tmp_path / "am.yml").write_text(QUIET)
    async with alertmanager(tmp_path, tmp_path / "am.yml") as made:
        output = {"type": "alertmanager", "urls": [made.url], "resend_interval": "1s", "backoff_initial": "200ms"}
        harness.config["channels"]["am"] = output
        options = {"alertname": "order-{{ row.id }}", "when": "row.amount < 100"}
        harness.alert["notify"] = ["hook", {"channel": "am", **options}]
        yield made


async def until_fires(manager: Alertmanager, *names: str) -> dict[str, dict[str, Any]]:
    async def found() -> dict[str, dict[str, Any]]:
        alerts = await manager.alerts()
        assert set(alerts) == set(names)
        return alerts or {"": {}}

    return await until_some(found)


async def test_alertmanager_and_webhook_get_the_same_alerts(harness: Harness, manager: Alertmanager) -> None:
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        found = await until_fires(manager, "order-1")
        assert found["order-1"]["labels"] == {"alertname": "order-1", "id": "1", "name": "Ann"}
        assert found["order-1"]["annotations"] == {"summary": "Order 1 of Ann"}
        harness.orders.insert(("2", "Bob", "20"))
        harness.orders.insert(("3", "Cyd", "300"))  # excluded by `when`
        await until_fires(manager, "order-1", "order-2")
        harness.orders.delete(("1", "Ann", "10"))
        await until_fires(manager, "order-2")
        await harness.until_notified(("fired", "1"), ("fired", "2"), ("fired", "3"), ("resolved", "1"))
        [shown] = [one for one in (await tocsin.json("/api/v1/channels"))["channels"] if one["name"] == "am"]
        assert (shown["type"], shown["state"], shown["dead"]) == ("alertmanager", "up", 0)


async def test_output_without_channels_needs_no_ledger(harness: Harness, manager: Alertmanager, tmp_path: Path) -> None:
    harness.alert["notify"] = harness.alert["notify"][1:]
    del harness.config["channels"]["hook"]
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await until_fires(manager, "order-1")
    assert not (tmp_path / "ledger.db").exists()


async def test_crash_resends_what_fires_and_expires_the_rest(harness: Harness, manager: Alertmanager) -> None:
    harness.config["channels"]["am"]["expiry"] = "4s"
    harness.orders.insert(("2", "Bob", "20"))
    async with harness.run() as tocsin:
        await until_fires(manager, "order-1", "order-2")
        await tocsin.kill()
    harness.orders.delete(("2", "Bob", "20"))
    async with harness.run() as tocsin:
        await until_fires(manager, "order-1")
        assert tocsin.running


async def test_reload_ends_what_is_gone_or_removed(harness: Harness, manager: Alertmanager) -> None:
    harness.config["web"]["admin"] = True
    harness.config["channels"]["am"]["expiry"] = "1h"
    harness.double.create("public.parcels", COLUMNS, retain=None, rows=[("7", "Box", "70")])
    harness.config["alerts"]["parcels"] = {**harness.alert, "relation": "public.parcels"}
    harness.orders.insert(("2", "Bob", "20"))
    async with harness.run() as tocsin:

        async def reload() -> None:
            tocsin.write(harness.config)
            assert (await tocsin.post("/-/reload"))[0] == 200

        await until_fires(manager, "order-1", "order-2", "order-7")
        # Another view and other annotations: the watch and the output are both replaced.
        harness.double.create("public.more_orders", COLUMNS, retain=None, rows=[("2", "Bob", "20"), ("3", "Cyd", "30")])
        harness.alert.update(relation="public.more_orders", annotations={"summary": "Late"})
        await reload()
        await until_fires(manager, "order-2", "order-3", "order-7")
        del harness.config["alerts"]["parcels"]
        await reload()
        await until_fires(manager, "order-2", "order-3")
        del harness.config["channels"]["am"]
        harness.alert["notify"] = ["hook"]
        await reload()
        assert await manager.alerts() == {}
