"""Fixtures of the tests of notifications: the double of Materialize and, where there is one, a live server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.live import SERVERS, Server, serving
from support.notifications import Scenario, new_scenario


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with serving(request.param) as running_server:
        yield running_server


@pytest.fixture
async def scenario(server: Server, tmp_path: Path) -> AsyncIterator[Scenario]:
    async with new_scenario(tmp_path, server) as made:
        yield made
