"""Fixtures of the Materialize source. Tests that take `server` run against a double of each release, and against a real
Materialize where one is given (see support/live.py); those that take `double` do what only it can be made to do."""

from collections.abc import AsyncIterator

import pytest

from support.live import SERVERS, Server, serving
from support.materialize import MaterializeDouble


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with serving(request.param) as running:
        yield running


@pytest.fixture
async def double() -> AsyncIterator[MaterializeDouble]:
    async with MaterializeDouble(progress_interval=0.1, clusters=("quickstart", "other")) as running:
        yield running
