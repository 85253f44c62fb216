"""A table of its own in a real PostgreSQL, one server for all tests of a process."""

import atexit
import functools
import json
import secrets
from typing import Any

import psycopg

from support.channel_benches import HttpBench
from support.postgres import Postgres, postgres


@functools.cache
def shared_postgres() -> Postgres:
    """A server that runs until the process ends."""
    running = postgres()
    atexit.register(running.__exit__, None, None, None)
    return running.__enter__()


class Bench(HttpBench):
    http = False

    def __init__(self) -> None:
        super().__init__()
        self.dsn = shared_postgres().dsn()
        self.table = f"contract_{secrets.token_hex(4)}"

    def settings(self, url: str) -> dict[str, Any]:
        return {"dsn": self.dsn, "table": self.table, "create": True}

    def arrived(self) -> list[Any]:
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute(f"SELECT envelope, exact FROM {self.table} ORDER BY written_at").fetchall()
        return [envelope if exact is None else json.loads(exact) for envelope, exact in rows]
