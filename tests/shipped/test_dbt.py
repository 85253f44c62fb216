"""The example with dbt, deployed by the real dbt to a double of Materialize while Tocsin watches.

Without arguments a view is away for seconds; TOCSIN_TEST_DBT_AWAY says for how many.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from psycopg.conninfo import make_conninfo

from support.dbt import Catalog, Content, Dbt, dbt
from support.examples import EXAMPLES, example
from support.materialize import MaterializeDouble
from support.materialize.protocol import Row
from support.receiver import Receiver
from support.tocsin import TocsinProcess
from support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAME, ROLE = "dbt-materialize", "tocsin"
LATE = "materialize.ops.late_shipments"
AWAY = float(os.environ.get("TOCSIN_TEST_DBT_AWAY", "3"))
BEYOND = 2.0
"""Seconds that an alert may be down after its view exists again."""
DUE = "2026-01-01 00:00:00+00"
SHIPMENTS: list[Row] = [("11", "1"), ("12", "2"), ("13", "3")]
CONTENT: Content = {
    "open_shipments": ([("id", "int4"), ("order_id", "int4")], SHIPMENTS),
    "late_shipments": (
        [("shipment_id", "int4"), ("customer", "text"), ("due_at", "timestamptz")],
        [("11", "Ann", DUE), ("12", "Bob", DUE), ("13", "Cyd", DUE)],
    ),
    "shipments_without_order": ([("shipment_id", "int4"), ("order_id", "int4")], [("14", "4")]),
}
FIRING = 4
"""The rows of both alerts."""


@dataclass(slots=True, kw_only=True)
class Watched:
    """Everything that runs. `down`: from and until when readiness was refused; the last one may be open."""

    dbt: Dbt
    double: MaterializeDouble
    catalog: Catalog
    hook: Receiver
    tocsin: TocsinProcess
    down: list[list[float]] = field(default_factory=list)
    series: set[int] = field(default_factory=set)
    """The numbers of series of late shipments that were served."""

    async def poll(self) -> None:
        """Ask again and again whether Tocsin is ready, and for its series."""
        while True:
            ready = not await self.tocsin.ready()
            now = time.monotonic()
            if not ready and (not self.down or len(self.down[-1]) == 2):
                self.down.append([now])
            elif ready and self.down and len(self.down[-1]) == 1:
                self.down[-1].append(now)
            self.series.add(len(await self.tocsin.gauge("late_shipments")))
            await asyncio.sleep(0.02)

    async def count(self, name: str) -> float:
        """The sum over all alerts."""
        return sum((await self.tocsin.gauge(name)).values())

    async def unchanged(self) -> None:
        """Nothing fired, changed or resolved since the start, and no series was missing."""
        assert await self.count("tocsin_alert_transitions_total") == FIRING
        assert len(self.hook.requests) == FIRING
        assert self.series == {3}


@asynccontextmanager
async def watched(folder: Path, *granted: str, **models: str) -> AsyncIterator[Watched]:
    """The example, after the first `dbt run` and `dbt test`. `granted`: schemas in which Tocsin may read what comes.
    `models`: settings of the models."""
    double = MaterializeDouble(progress_interval=0.1, clusters=("quickstart", "alerting"))
    async with double, Receiver() as hook:
        catalog = Catalog(double, CONTENT, reader=ROLE, granted={"ops_etl_failure", *granted})
        async with dbt(chained(folder, models), double) as run:
            await run("run")
            await run("test", fails=True)
            dsn = make_conninfo(double.dsn, user=ROLE)
            async with example(NAME, folder, MATERIALIZE_DSN=dsn, WEBHOOK_URL=hook.url) as tocsin:
                await hook.arrived(FIRING)
                all_ = Watched(dbt=run, double=double, catalog=catalog, hook=hook, tocsin=tocsin)
                polling = asyncio.create_task(all_.poll())
                try:
                    yield all_
                finally:
                    polling.cancel()


def chained(folder: Path, models: dict[str, str]) -> Path:
    """The project of the example with a model before the one that is watched, which dbt drops with it."""
    project = folder / "project"
    shutil.copytree(EXAMPLES / NAME, project)
    late, settings = project / "models/late_shipments.sql", project / "dbt_project.yml"
    before = "{{ config(materialized='materialized_view') }}\nSELECT * FROM {{ source('shop', 'shipments') }}\n"
    (project / "models/open_shipments.sql").write_text(before)
    late.write_text(late.read_text().replace("{{ source('shop', 'shipments') }}", "{{ ref('open_shipments') }}"))
    changed = yaml.safe_load(settings.read_text())
    changed["models"]["shipping"] |= {f"+{name.replace('_', '-')}": value for name, value in models.items()}
    settings.write_text(yaml.safe_dump(changed))
    return project


async def test_plain_run_is_down_no_longer_than_the_view(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """`dbt run` drops every view and creates it again, without its grants. A busy machine gets three tries."""
    slow, grant = f"{{% do adapter.sleep({AWAY / 2}) %}}", f"GRANT SELECT ON {{{{ this }}}} TO {ROLE}"
    async with watched(tmp_path, pre_hook=slow, post_hook=grant) as all_:
        beyond = []
        for _ in range(3):
            await all_.dbt("run")
            await until(lambda: len(all_.down[-1]) == 2, "ready again")
            dropped, created = (all_.catalog.times(action, LATE)[-1] for action in ("drop", "create"))
            beyond.append(all_.down[-1][1] - created)
            request.node.user_properties.append(("away and beyond", [created - dropped, beyond[-1]]))
            assert created - dropped >= AWAY
            await all_.unchanged()
            assert await all_.count("tocsin_alert_gaps_total") == len(beyond)
            if beyond[-1] <= BEYOND:
                break
        assert min(beyond) <= BEYOND
        all_.double.relation("ops.late_shipments").insert(("14", "Dan", DUE))
        await all_.hook.arrived(FIRING + 1)


async def test_blue_green_deployment_has_no_gap(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Schemas and clusters are swapped. Tocsin reads the new view before the old one is dropped; it may, because dbt
    copies default privileges."""
    async with watched(tmp_path, "ops") as all_:
        old = all_.double.relation("ops.late_shipments")
        await all_.dbt("run-operation", "deploy_init")
        await all_.dbt("run", "--vars", "{deploy: true}")
        await all_.dbt("run-operation", "deploy_await", "--args", "{poll_interval: 1}")
        assert old.streams
        assert not all_.down
        await all_.dbt("run-operation", "deploy_promote")
        new = all_.double.relation("ops.late_shipments")
        assert new is not old
        await all_.double.subscribed(new)
        await all_.double.unsubscribed(old)
        await all_.dbt("run-operation", "deploy_cleanup")
        assert old.gone
        await until(lambda: all(len(times) == 2 for times in all_.down), "ready again")
        request.node.user_properties.append(("down", [end - start for start, end in all_.down]))
        await all_.unchanged()
        assert await all_.count("tocsin_alert_gaps_total") == 0
        new.insert(("14", "Dan", DUE))
        await all_.hook.arrived(FIRING + 1)
