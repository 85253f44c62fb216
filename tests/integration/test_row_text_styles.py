"""The texts of a real PostgreSQL, in every style that a session can ask for."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from psycopg.postgres import types as psycopg_types

from support.postgres import Database
from tocsin.firing.canonical import Respelling
from tocsin.model import Column
from tocsin.postgres import OUTPUT
from tocsin.values import typed

OIDS = (1186, 1187, 17, 1001, 1184, 1185, 3910, 4534)
COLUMNS = tuple(Column(name=f"c{oid}", oid=oid) for oid in OIDS)
SELECT = """
SELECT i::text, ARRAY[i, NULL, '1 day']::text, b::text, ARRAY[b, NULL]::text, t::text, ARRAY[t, NULL]::text,
  tstzrange(t, NULL)::text, tstzmultirange(tstzrange(t, NULL))::text
FROM several ORDER BY number
"""
UNITS = (("years", 3), ("mons", 14), ("days", 40), ("hours", 30), ("mins", 70), ("secs", 70))


def interval(chance: random.Random) -> str:
    return " ".join(f"{chance.randint(-most, most)} {unit}" for unit, most in UNITS if chance.random() < 0.5) or "0"


@pytest.mark.parametrize("style", ["postgres", "postgres_verbose", "sql_standard", "iso_8601"])
async def test_every_style_becomes_the_default(database: Database, style: str) -> None:
    """A thousand values of each type, in several time zones."""
    chance = random.Random(1)
    await database.run("CREATE TABLE several (number serial, i interval, b bytea, t timestamptz)")
    texts = [*(interval(chance) for _ in range(1_000)), "1.5 secs", "-0.000001 secs", "infinity"]
    octets = [chance.randbytes(chance.randint(0, 8)) for _ in texts]
    moments = [chance.uniform(-6e10, 2.5e11) for _ in texts]
    given = "SELECT i::interval, b, to_timestamp(t) FROM unnest(%s::text[], %s::bytea[], %s::float8[]) AS a (i, b, t)"
    await database.run(f"INSERT INTO several (i, b, t) {given}", texts, octets, moments)
    for name, value in OUTPUT.items():
        await database.run("SELECT set_config(%s, %s, false)", name, value)
    expected = await database.run(SELECT)
    respelling = Respelling(COLUMNS)
    assert all(respelling.row(row) is row for row in expected)

    for zone in ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York"):
        asked = {"IntervalStyle": style, "TimeZone": zone, "bytea_output": "escape"}
        for name, value in asked.items():
            await database.run("SELECT set_config(%s, %s, false)", name, value)
        found = [respelling.row(row) for row in await database.run(SELECT)]
        assert found == expected, zone


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
