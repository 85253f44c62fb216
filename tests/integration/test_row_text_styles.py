"""The texts of a real PostgreSQL, in every style that a session can ask for."""

import random

import pytest

from support.postgres import Database
from tocsin.firing.canonical import Respelling
from tocsin.model import Column
from tocsin.postgres_session import OUTPUT

pytestmark = pytest.mark.xdist_group("postgres")

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
    for text in [*(interval(chance) for _ in range(1_000)), "1.5 secs", "-0.000001 secs", "infinity"]:
        moment, octets = chance.uniform(-6e10, 2.5e11), chance.randbytes(chance.randint(0, 8))
        await database.run(
            "INSERT INTO several (i, b, t) VALUES (%s::interval, %s, to_timestamp(%s))", text, octets, moment
        )
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
