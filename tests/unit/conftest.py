"""What the tests of dispatchers share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.dispatching import Desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "ledger")
    yield desk
    await desk.close()
