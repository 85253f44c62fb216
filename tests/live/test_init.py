"""`tocsin init` on a running Materialize (TOCSIN_TEST_MATERIALIZE_DSN)."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.live import LiveServer, serving
from support.live_server import VARIABLE
from support.tocsin import command

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
]


@pytest.fixture
async def shop() -> AsyncIterator[LiveServer]:
    """A schema with views over orders, of which one is indexed and two are refused by SUBSCRIBE."""
    async with serving("live") as server:
        assert isinstance(server, LiveServer)
        await server.run(
            f"CREATE TABLE {server.schema}.orders (order_id int, customer text, due timestamp, amount int)"
        )
        rows = "n, 'customer ' || n % 2, '2026-01-01'::timestamp, n"
        await server.run(f"INSERT INTO {server.schema}.orders SELECT {rows} FROM generate_series(1, 3) AS n")
        orders = f"{server.schema}.orders"
        counted = f"SELECT customer, count(*) AS n, max(amount) AS amount FROM {orders} GROUP BY customer"
        await server.run(f"CREATE VIEW {server.schema}.counted AS {counted}")
        await server.run(f"CREATE DEFAULT INDEX ON {server.schema}.counted")
        await server.run(
            f"CREATE VIEW {server.schema}.late AS SELECT order_id, amount FROM {orders} WHERE mz_now() > due"
        )
        await server.run(f"CREATE VIEW {server.schema}.aged AS SELECT *, now() - due AS age FROM {orders}")
        await server.run(f"CREATE VIEW {server.schema}.stamped AS SELECT *, mz_now() AS at FROM {orders}")
        yield server


async def initialized(folder: Path, shop: LiveServer, view: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, the alert, and what people read."""
    arguments = ("--yes", "--dsn", shop.dsn, "--relation", f"{shop.schema}.{view}")
    status, printed, read = await command(folder, "init", *arguments)
    return status, yaml.safe_load(printed)["alerts"][view], read


async def test_key_is_what_the_planner_knows(shop: LiveServer, tmp_path: Path) -> None:
    status, alert, read = await initialized(tmp_path, shop, "counted")
    assert (status, alert["key"], alert["labels"], alert["value"]) == (0, ["customer"], ["customer"], "n"), read
    assert "fired counted customer=" in read
    assert "Materialize 26" in read


async def test_key_is_measured_where_the_planner_knows_none(shop: LiveServer, tmp_path: Path) -> None:
    status, alert, read = await initialized(tmp_path, shop, "late")
    assert (status, alert["key"], alert["value"], alert.get("ignore")) == (0, ["order_id"], "amount", None), read


@pytest.mark.parametrize(("view", "clock"), [("aged", "current_timestamp"), ("stamped", "mz_now")])
async def test_view_that_subscribe_refuses_is_named(view: str, clock: str, shop: LiveServer, tmp_path: Path) -> None:
    """`SELECT` and the description of a SUBSCRIBE accept it."""
    status, _, read = await initialized(tmp_path, shop, view)
    assert status == 1
    assert (
        f"to do: alerts.{view}: internal error: internal error in optimizer: cannot materialize call to {clock}" in read
    )
