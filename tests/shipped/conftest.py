"""A real PostgreSQL, and the SQL for Materialize in it."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from support.model_on_postgres import SCHEMA, Model
from support.postgres import Postgres, shared_postgres
from support.setup_server import shipped


@pytest.fixture(scope="session")
def server() -> Postgres:
    return shared_postgres()


@pytest.fixture(scope="session")
def connection(server: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn(options="-c timezone=UTC")) as connection:
        Model(connection).build(shipped(schema=SCHEMA))
        connection.commit()
        yield connection
        connection.rollback()


@pytest.fixture
def model(connection: psycopg.Connection[Any]) -> Iterator[Model]:
    yield Model(connection)
    connection.rollback()
