"""A real Prometheus scrapes the page: both formats, compressed in several gzip members, hostile label values."""

import contextlib
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from aiohttp.test_utils import TestServer

from support.monitoring_programs import Generation, each_generation
from support.prometheus import Prometheus, prometheus
from support.waiting import until_some
from support.web import FakeProcess
from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page, Scrape
from tocsin.web.access import Rules
from tocsin.web.application import build
from tocsin.web.guard import Guard

HOSTILE = [
    'quote " backslash \\ line\nfeed \\n "} 1\n',
    "# EOF",
    "carriage\rreturn \t tab \x85 \u2028 \x00 \x01\x7f",
    "\u202eright to left مرحبا 株式会社 🔔 e\u0301",
    "\ufeff\ufffe",
    " leading and trailing ",
    "x" * 5000,
    "half a surrogate pair \ud800",
]
READ = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
"""How they read back: all but the last, which has no UTF-8, as they were."""
VALUES = {"1": "Infinity", "2": "-1e-300", "3": "12345678901234567"}
ROOT = Path(__file__).parents[2]
ROWS: Mapping[Any, tuple[str, ...]] = {
    **{number: (f"{number:05}", "", "1") for number in range(3000)},
    **{text: ("", text, "NaN") for text in HOSTILE},
    **{order: (order, "value", value) for order, value in VALUES.items()},
}


class TextPage(Page):
    """Answers in the older format to any request, since Prometheus requests OpenMetrics by itself."""

    async def scrape(self, accept: str, accept_encoding: str, now: float) -> Scrape:
        return await super().scrape("", accept_encoding, now)


@each_generation
async def test_prometheus_reads_every_row_in_both_formats(tmp_path: Path, generation: Generation) -> None:
    jobs = []
    async with contextlib.AsyncExitStack() as stack:
        for job, page in (("openmetrics", Page(Metrics("1.2.3"))), ("text", TextPage(Metrics("1.2.3")))):
            spec = GaugeSpec(alert="late", metric="late_orders", labels=(("order", 0), ("note", 1)), value=2)
            gauges = Gauges(spec)
            gauges.install(gauges.render(ROWS, replace=True), time.time())
            page.add(gauges)
            page.metrics.alert("late")
            server = await stack.enter_async_context(TestServer(build(FakeProcess(), page, guard=Guard(Rules()))))
            jobs.append({"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]})
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        running = await stack.enter_async_context(prometheus(tmp_path, config, generation))
        for job in ("openmetrics", "text"):
            await reads_every_row(running, job)


@each_generation
async def test_shipped_rule_forgets_rows_that_ended_during_a_restart(tmp_path: Path, generation: Generation) -> None:
    rules = yaml.safe_load((ROOT / "prometheus" / "rules" / "demo.yml").read_text(encoding="utf-8"))
    [rule] = [one for group in rules["groups"] for one in group["rules"] if one["alert"] == "DeploymentSpike"]
    assert rule["expr"].count(" < 15)") == 1  # three scrapes; this one scrapes five times as often
    rule |= {"expr": rule["expr"].replace(" < 15)", " < 3)"), "keep_firing_for": "0s"}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "demo", "rules": [rule]}]}))
    page = Page(Metrics("1.2.3"))
    gauges = Gauges(GaugeSpec(alert="spikes", metric="organization_alert", labels=(("organization", 0),), value=1))
    page.add(gauges)

    def show(*organizations: str) -> None:
        rows: dict[Any, tuple[str, ...]] = {name: (name, "10") for name in organizations}
        gauges.install(gauges.render(rows, replace=True), time.time())

    async def fires(running: Prometheus, *organizations: str) -> bool:
        alerts = (await running.get("alerts"))["alerts"]
        assert sorted(alert["labels"]["organization"] for alert in alerts) == [*organizations]
        return True

    show("A", "B")
    async with TestServer(build(FakeProcess(), page, guard=Guard(Rules()))) as server:
        targets = [{"targets": [f"127.0.0.1:{server.port}"]}]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(tmp_path / "rules.yml")],
            "scrape_configs": [{"job_name": "tocsin", "static_configs": targets}],
        }
        async with prometheus(tmp_path, config, generation) as running:
            await until_some(partial(fires, running, "A", "B"))
        show("B")
        async with prometheus(tmp_path, config, generation) as running:
            await until_some(partial(fires, running, "B"))
            assert len(await running.query("organization_alert")) == 2  # the ended series goes on for five minutes


async def reads_every_row(running: Prometheus, job: str) -> None:
    [count] = await until_some(partial(running.query, f'count(late_orders{{job="{job}"}})'), f"a scrape of {job}")
    assert int(count["value"][1]) == len(ROWS)
    [up] = await running.query(f'up{{job="{job}"}}')
    assert up["value"][1] == "1"
    notes = await running.query(f'late_orders{{job="{job}",note!="",order=""}}')
    assert sorted(series["metric"]["note"] for series in notes) == sorted(READ)
    assert {series["value"][1] for series in notes} == {"NaN"}
    found = await running.query(f'late_orders{{job="{job}",note="value"}}')
    assert {series["metric"]["order"]: float(series["value"][1]) for series in found} == {
        order: float(value) for order, value in VALUES.items()
    }
    assert await running.query(f'tocsin_alert_updates_total{{job="{job}",alert="late"}}')
