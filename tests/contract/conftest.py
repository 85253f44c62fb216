"""What the suites over every ledger share, and those over the double of Materialize."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.clock import Clock
from support.ledger import IMPLEMENTATIONS, OpenLedger
from support.materialize import MaterializeDouble, Relation
from support.materialize.client import COLUMNS
from tocsin.ledger.base import Ledger


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=IMPLEMENTATIONS)
def opener(request: pytest.FixtureRequest) -> OpenLedger:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
async def ledger(opener: OpenLedger, tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    ledger = opener(tmp_path / "ledger", clock=clock)
    yield ledger
    await ledger.close()


@pytest.fixture
async def double() -> AsyncIterator[MaterializeDouble]:
    async with MaterializeDouble(progress_interval=0.01) as running:
        yield running


@pytest.fixture
def orders(double: MaterializeDouble) -> Relation:
    return double.create("orders", COLUMNS, rows=[(1, "a"), (2, None)])
