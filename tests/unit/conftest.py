"""What the tests of dispatchers and of level outputs share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.dispatching import Desk
from support.levels import FakeLevel, Stage


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "ledger")
    yield desk
    await desk.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage(FakeLevel("a", "b"))
    await made.quiet()
    yield made
    await made.close()
