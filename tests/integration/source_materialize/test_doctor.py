"""What `tocsin doctor` asks a Materialize, here its double: the answers are those of a server of v26.39."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.config import load_text
from support.live import settings
from support.materialize import MaterializeDouble
from support.materialize.errors import unknown_statement
from support.materialize.protocol import Result, column
from support.waiting import until
from tocsin.doctor.findings import Finding, Severity
from tocsin.doctor.history import reaches_back

LATE = "materialize.public.late"
CONFIG = """
sources: {mz: {type: materialize, host: h, user: u}}
channels: {out: {type: console}}
alerts: {late: {source: mz, relation: late, key: [id], notify: [out]}}
"""


@pytest.fixture
async def double() -> AsyncIterator[MaterializeDouble]:
    async with MaterializeDouble(progress_interval=0.1) as made:
        yield made


async def found(double: MaterializeDouble, tmp_path: Path, downtime: float = 3600.0) -> Finding:
    alert = load_text(tmp_path, CONFIG).row_alerts["late"]
    [one] = await reaches_back(alert, "alerts.late", settings(double.dsn), downtime)
    return one


def text(value: str, *before: str) -> Result:
    row = (*before, value)
    return Result(tag="SELECT 1", columns=[column(f"c{n}", "text") for n in range(len(row))], rows=[row])


def made(settings: str) -> str:
    return f"CREATE MATERIALIZED VIEW {LATE}\n    IN CLUSTER alerting\n    WITH ({settings})\n    AS SELECT id FROM t;"


def reading(double: MaterializeDouble, name: str, place: str, created: str = "") -> None:
    """Have subscriptions read an object, which was made so."""

    def answer(statement: str) -> Result | None:
        if statement.startswith("EXPLAIN TIMESTAMP"):
            return text(json.dumps({"sources": [{"name": f"{name} (u7, {place})"}]}))
        if statement.startswith("SHOW CREATE MATERIALIZED VIEW"):
            return text(created, name)
        if statement.startswith("SHOW CREATE"):
            raise unknown_statement(statement)
        if asked := re.fullmatch(r"SELECT extract\(epoch FROM '(\d+) hours?'::interval\)", statement):
            return text(str(int(asked[1]) * 3600))
        return None

    double.answer = answer


async def test_history_is_measured_by_a_subscription(double: MaterializeDouble, tmp_path: Path) -> None:
    """Which ends at once. Nothing else is asked where the history is long enough."""
    late = double.create("public.late", [("id", "int4")], retain=1_000, rows=[("1",)])
    reading(double, LATE, "storage", made("REFRESH = ON COMMIT"))
    one = await found(double, tmp_path)
    assert one.severity is Severity.WARNING
    assert one.fix == f"ALTER MATERIALIZED VIEW {LATE} SET (RETAIN HISTORY FOR '1 hour')"
    assert "AS OF AT LEAST 1)" in next(line for line in double.statements if line.startswith("COPY"))
    double.statements.clear()
    assert (await found(double, tmp_path, downtime=0.01)).severity is Severity.OK
    assert not [line for line in double.statements if "EXPLAIN" in line or "SHOW" in line]
    await until(lambda: not late.streams, "the subscription is over")


async def test_history_that_a_view_is_set_to_retain_is_read(double: MaterializeDouble, tmp_path: Path) -> None:
    """A young view has less yet."""
    double.create("public.late", [("id", "int4")], retain=1_000, rows=[("1",)])
    reading(double, LATE, "storage", made("RETAIN HISTORY = FOR '2 hours', REFRESH = ON COMMIT"))
    one = await found(double, tmp_path)
    assert (one.severity, "is kept for 1h or longer" in one.message) == (Severity.OK, True)
    assert (await found(double, tmp_path, downtime=86400.0)).severity is Severity.WARNING


async def test_index_in_place_of_the_view_is_named(double: MaterializeDouble, tmp_path: Path) -> None:
    double.create("public.late", [("id", "int4")], retain=1_000, rows=[("1",)])
    reading(double, "materialize.public.late_idx", "compute")
    one = await found(double, tmp_path)
    assert one.severity is Severity.WARNING
    assert "DROP INDEX materialize.public.late_idx" in one.fix
