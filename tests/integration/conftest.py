"""What the tests against a real PostgreSQL share: one server, and in it a database of its own for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from support.postgres import Database, Postgres, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A test may stop it, and starts it again."""
    with postgres() as running:
        yield running


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as one:
        yield one
