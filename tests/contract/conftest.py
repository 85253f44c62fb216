"""Fixtures of the suites that run over every ledger."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.clock import Clock
from support.ledger import IMPLEMENTATIONS, OpenLedger
from tocsin.ledger.base import Ledger


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=IMPLEMENTATIONS)
def opener(request: pytest.FixtureRequest) -> OpenLedger:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
async def ledger(opener: OpenLedger, tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    ledger = await opener(tmp_path / "ledger", clock=clock)
    yield ledger
    await ledger.close()
