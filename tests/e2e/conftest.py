"""Fixtures: the double of Materialize and, for notifications, a live server where there is one; a harness, and one that
several processes can share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.live import LIVE, Server, serving
from support.materialize import NEWEST
from support.notifications import Scenario, new_scenario
from support.postgres import Database, shared_postgres
from support.tocsin import Harness, new_harness


@pytest.fixture(params=(NEWEST, *LIVE))
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with serving(request.param) as running_server:
        yield running_server


@pytest.fixture
async def scenario(server: Server, tmp_path: Path) -> AsyncIterator[Scenario]:
    async with new_scenario(tmp_path, server) as made:
        yield made


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A harness whose view has one row, an order of Ann."""
    async with new_harness(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"))
        yield made


@pytest.fixture
async def shared(tmp_path: Path, database: Database) -> AsyncIterator[Harness]:
    """A harness whose ledger is in PostgreSQL, so that several processes can share it. Its view is empty."""
    async with new_harness(tmp_path) as made:
        made.config["ledger"] = {"url": database.dsn, "lease": "1s"}
        yield made


@pytest.fixture(params=["file", "postgres"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """The section of the configuration for a ledger of each kind."""
    if request.param == "file":
        yield {"path": str(tmp_path / "ledger.db")}
        return
    async with shared_postgres().database() as database:
        yield {"url": database.dsn, "lease": "1s"}
