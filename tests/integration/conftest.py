"""What tests share: one PostgreSQL, and in it a database of its own for each test; a web server."""

from collections.abc import AsyncIterator

import pytest

from support.postgres import Database, Postgres, shared_postgres
from support.web import FakeProcess, Start, starting


@pytest.fixture(scope="session")
def server() -> Postgres:
    return shared_postgres()


@pytest.fixture
async def database(server: Postgres) -> AsyncIterator[Database]:
    async with server.database() as one:
        yield one


@pytest.fixture
def process() -> FakeProcess:
    """The process behind the web server."""
    return FakeProcess()


@pytest.fixture
async def start(process: FakeProcess) -> AsyncIterator[Start]:
    async with starting(process) as begin:
        yield begin
