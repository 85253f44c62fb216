"""Fixtures of the tests of dispatchers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.dispatching import DispatcherHarness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[DispatcherHarness]:
    harness = DispatcherHarness(tmp_path / "ledger")
    yield harness
    await harness.close()
