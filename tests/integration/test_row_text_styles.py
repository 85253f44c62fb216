"""The texts of a real PostgreSQL."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.postgres import types as psycopg_types

from support.postgres import Database
from tocsin.firing.canonical import respelling
from tocsin.model import Column
from tocsin.values import typed

UNITS = (("years", 3), ("mons", 14), ("days", 40), ("hours", 30), ("mins", 70), ("secs", 70))


async def test_canonical_intervals_are_those_of_postgres(database: Database) -> None:
    """Of a thousand random intervals, alone and in an array; other versions of Materialize write months out."""
    chance = random.Random(1)
    canonical = respelling((Column(name="one", oid=1186), Column(name="several", oid=1187)))
    assert canonical is not None
    texts = [
        " ".join(f"{chance.randint(-most, most)} {unit}" for unit, most in UNITS if chance.random() < 0.5) or "0"
        for _ in range(1_000)
    ]
    for row in await database.run("SELECT i::text, ARRAY[i, NULL]::text FROM unnest(%s::interval[]) AS i", texts):
        assert canonical(row) == row
        assert canonical(tuple(text.replace("mon", "month") for text in row)) == row


async def test_values_and_arrays_read_back(database: Database) -> None:
    """Two hundred random values of each type, alone and in an array with NULL."""
    chance = random.Random(1)

    def text() -> str:
        return "".join(chance.choice("ab,{}\\\"' =>é\n") for _ in range(chance.randint(0, 6)))

    makers: dict[str, Any] = {
        "bool": lambda: chance.random() < 0.5,
        "int8": lambda: chance.randint(-(2**63), 2**63 - 1),
        "float8": lambda: chance.uniform(-1e9, 1e9),
        "numeric": lambda: Decimal(chance.randint(-(10**30), 10**30)).scaleb(-chance.randint(0, 20)),
        "timestamptz": lambda: (
            datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randint(-(10**16), 10**16))
        ),
        "uuid": lambda: UUID(int=chance.getrandbits(128)),
        "bytea": lambda: chance.randbytes(chance.randint(0, 8)),
        "text": text,
    }
    for name, make in makers.items():
        info = psycopg_types[name]
        values = [make() for _ in range(200)]
        rows = await database.run(f"SELECT format('%%s', unnest(%s::{name}[]))", values)
        assert [typed(Column(name="c", oid=info.oid), row) for (row,) in rows] == values
        [(array,)] = await database.run(f"SELECT array_append(%s::{name}[], NULL)::text", values)
        assert typed(Column(name="c", oid=info.array_oid), array) == [*values, None]
