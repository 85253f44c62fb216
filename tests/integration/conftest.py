"""What the tests against a real PostgreSQL share: one server, and in it a database of its own for each test."""

from collections.abc import AsyncIterator

import pytest

from support.postgres import Database, Postgres, shared_postgres


@pytest.fixture(scope="session")
def server() -> Postgres:
    return shared_postgres()


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as one:
        yield one
