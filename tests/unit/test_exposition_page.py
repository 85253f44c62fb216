"""The page: formats, encodings, families, one consistent state; Tocsin's own metrics are those of the table."""

import asyncio
import gzip
import itertools
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from support.monitoring_programs import Generation, each_generation, program
from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason, SourceReason
from tocsin.exposition import AlertStatus, ChannelState, Gauges, GaugeSpec, Metrics, Page, Scrape, State
from tocsin.exposition.table import TABLE
from tocsin.model import Kind, Row

TEXT = "text/plain; version=0.0.4; charset=utf-8"
PROMETHEUS_NEXT = (
    "application/openmetrics-text;version=2.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=1.0.0;"
    "escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3"
)
PROMETHEUS_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
SPEC = GaugeSpec(alert="late", metric="late_orders", labels=(("customer", 0),), value=1)


def page_of(*gauges: Gauges) -> Page:
    page = Page(Metrics("1.2.3"))
    for each in gauges:
        page.metrics.alert(each.spec.alert)
        page.add(each)
    return page


def gauges_of(spec: GaugeSpec, rows: Mapping[Any, Row | None]) -> Gauges:
    gauges = Gauges(spec)
    gauges.install(gauges.render(rows, replace=True), 0.0)
    return gauges


async def text_of(page: Page, accept: str = "", now: float = 0.0) -> str:
    scrape = await page.scrape(accept, "", now)
    return b"".join(scrape.body).decode()


def read(scrape: Scrape) -> dict[str, Metric]:
    body = b"".join(scrape.body)
    text = (gzip.decompress(body) if scrape.content_encoding == "gzip" else body).decode()
    if scrape.content_type.startswith("application/openmetrics-text"):
        families = list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    else:
        families = list(parse_text(text))
    assert len({family.name for family in families}) == len(families), "a family is there twice on the page"
    return {family.name: family for family in families}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        (PROMETHEUS_2, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
        (PROMETHEUS_3, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        ("application/openmetrics-text; version=latest", TEXT),
        (PROMETHEUS_NEXT, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        (
            "application/openmetrics-text;version=9.9",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
    ],
)
async def test_format_is_the_requested_one(accept: str, content_type: str) -> None:
    page = page_of(gauges_of(SPEC, {"1": ("Acme", "3")}))
    scrape = await page.scrape(accept, "", 0.0)
    assert scrape.content_type == content_type
    families = read(scrape)
    assert [(sample.labels, sample.value) for sample in families["late_orders"].samples] == [
        ({"customer": "Acme"}, 3.0)
    ]
    assert "tocsin_alert_updates" in families


@pytest.mark.parametrize(
    ("accept_encoding", "encoding"),
    [("", None), ("identity", None), ("br", None), ("gzip", "gzip"), ("br, GZIP;q=0.5", "gzip"), ("gzip;q=0", None)],
)
async def test_page_is_compressed_on_request(accept_encoding: str, encoding: str | None) -> None:
    page = page_of(gauges_of(SPEC, {str(place): (f"customer {place}", "1") for place in range(5000)}))
    scrape = await page.scrape("", accept_encoding, 0.0)
    assert scrape.content_encoding == encoding
    assert len(read(scrape)["late_orders"].samples) == 5000
    again = await page.scrape("", accept_encoding, 0.0)
    assert all(one is other for one, other in zip(scrape.body[:-1], again.body[:-1], strict=True)), "rendered twice"


async def test_alerts_that_share_a_metric_share_a_family() -> None:
    first = replace(SPEC, static_labels=(("tier", "gold"),))
    second = replace(SPEC, alert="later", static_labels=(("tier", "basic"),))
    other = replace(SPEC, alert="lost", metric="a_lost_parcel")
    row = {"1": ("Acme", "3")}
    empty = Gauges(replace(SPEC, alert="none", metric="no_orders"))
    page = page_of(gauges_of(first, row), gauges_of(other, row), gauges_of(second, row), empty)
    families = read(await page.scrape("", "gzip", 0.0))
    assert [sample.labels["tier"] for sample in families["late_orders"].samples] == ["gold", "basic"]
    assert len(families["a_lost_parcel"].samples) == 1
    assert families["no_orders"].samples == []


async def test_lingering_series_ends_at_a_scrape() -> None:
    gauges = gauges_of(replace(SPEC, linger=10.0), {"1": ("Acme", "3")})
    page = page_of(gauges)
    gauges.install(gauges.render({"1": None}), 0.0)
    assert 'late_orders{customer="Acme"} 0\n' in await text_of(page, now=9.0)
    assert "late_orders{" not in await text_of(page, now=10.0)
    for value, now in (("3", 20.0), (None, 21.0), ("4", 25.0)):  # it returns while it lingers
        gauges.install(gauges.render({"1": ("Acme", value) if value else None}), now)
    assert 'late_orders{customer="Acme"} 4\n' in await text_of(page, now=40.0)
    page.remove("late")
    assert "late_orders" not in await text_of(page)


async def test_scrape_shows_one_state_during_changes() -> None:
    """Each install gives every row the same value, so a page with two values would be a mixture of two states."""
    rows = [str(place) for place in range(1000)]
    gauges = Gauges(SPEC)
    page = page_of(gauges)

    async def change() -> None:
        for value in itertools.count():
            gauges.install(gauges.render({key: (key, str(value)) for key in rows}), 0.0)
            await asyncio.sleep(0)

    changing = asyncio.create_task(change())
    seen = set()
    for _ in range(6):
        scrape = await page.scrape("", "gzip", 0.0)
        samples = read(scrape)["late_orders"].samples
        values = {sample.value for sample in samples}
        assert len(values) <= 1
        assert len(samples) in {0, 1000}
        seen |= values
    changing.cancel()
    assert len(seen) > 1, "nothing changed between the scrapes"


# Tocsin's own metrics.


LATE = AlertStatus(
    name="late",
    source="mz",
    state=State.UP,
    leads=True,
    firing=2,
    frontier=1_700_000_000_500,
    last_progress=5.0,
    progress_interval=1.0,
    series=2,
    dropped=1,
    duplicates=3,
)


async def own_page(metrics: Metrics) -> str:
    return b"".join((await Page(metrics).scrape("", "", 0.0)).body).decode()


def running() -> Metrics:
    metrics = Metrics("1.2.3")
    for name in ("late", "lost"):
        metrics.alert(name).status = lambda: LATE
        metrics.channel(f"{name} people").state = lambda: ChannelState(
            state="up", pending=1, oldest_pending=7.0, silenced=4, oldest_silenced=8.0, dead=3, missing=2
        )
    metrics.alert("late").missing_column("customer")
    metrics.source("queue")
    metrics.silences = lambda: {"active": 1, "pending": 0}
    return metrics


def samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_page_shows_exactly_the_declared_metrics() -> None:
    text = await own_page(running())
    declared = re.findall(r"^# TYPE (tocsin_\w+)", text, flags=re.MULTILINE)
    assert declared == list(TABLE)
    for name, definition in TABLE.items():
        shown = {
            re.sub(r"_(bucket|sum|count)$", "", line) for line in re.findall(rf"^({name}\w*)[{{ ]", text, re.MULTILINE)
        }
        if definition.type == "histogram":
            assert shown == {name}
        else:
            assert name in shown, f"{name} has no sample"
        labels = set(re.findall(r'(\w+)="', "".join(re.findall(rf"^{name}(?:_bucket)?\{{.*", text, re.MULTILINE))))
        assert labels - {"le"} == set(definition.labels)


@each_generation
async def test_promtool_accepts_the_page(generation: Generation) -> None:
    text = await own_page(running())
    command = [program("promtool", generation), "check", "metrics"]
    checked = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def test_label_values_start_at_zero() -> None:
    found = samples(await own_page(running()))
    for kind in Kind:
        assert found[f'tocsin_alert_transitions_total{{alert="late",kind="{kind}"}}'] == 0
    for reason in SourceReason:
        assert found[f'tocsin_alert_source_errors_total{{alert="late",reason="{reason}"}}'] == 0
    for failure in Reason:
        assert found[f'tocsin_channel_failures_total{{channel="late people",reason="{failure}"}}'] == 0
    assert found['tocsin_alert_commit_seconds_count{alert="late"}'] == 0


async def test_counters_and_histograms_are_shown() -> None:
    metrics = running()
    late, people = metrics.alert("late"), metrics.channel("late people")
    late.updates.inc(7)
    late.commit_seconds.observe(0.02)
    people.failures[Reason.TIMEOUT].inc()
    people.delivery_seconds.observe(4000.0)
    metrics.source("queue").refused_request(418)
    metrics.reloaded(successful=True, at=100.0)
    metrics.reloaded(successful=False, at=200.0)
    found = samples(await own_page(metrics))
    for name, value in {
        'tocsin_alert_updates_total{alert="late"}': 7,
        'tocsin_alert_updates_total{alert="lost"}': 0,
        'tocsin_alert_commit_seconds_bucket{alert="late",le="0.025"}': 1,
        'tocsin_alert_frontier_timestamp_seconds{alert="late"}': 1_700_000_000.5,
        'tocsin_alert_series_dropped{alert="late"}': 1,
        'tocsin_alert_duplicate_series_total{alert="late"}': 3,
        'tocsin_channel_failures_total{channel="late people",reason="timeout"}': 1,
        'tocsin_channel_delivery_seconds_bucket{channel="late people",le="3600.0"}': 0,
        'tocsin_channel_oldest_pending_timestamp_seconds{channel="late people"}': 7,
        'tocsin_source_refused_requests_total{code="other",source="queue"}': 1,
        "tocsin_config_last_reload_successful": 0,
        "tocsin_config_last_reload_success_timestamp_seconds": 100,
    }.items():
        assert found[name] == value, name


async def test_unknown_values_have_no_sample() -> None:
    """Also those of an alert without a gauge. Of an alert that does not run here all are unknown."""
    metrics = Metrics("1.2.3")
    metrics.alert("late").status = lambda: AlertStatus(name="late", source="mz")
    metrics.alert("led elsewhere")
    metrics.channel("people")
    found = samples(await own_page(metrics))
    assert found['tocsin_alert_up{alert="late"}'] == 0
    assert 'tocsin_alert_up{alert="led elsewhere"}' not in found
    unknown = ("frontier_timestamp", "last_progress_timestamp", "oldest_pending_timestamp", "_series")
    assert not [name for name in found if any(part in name for part in unknown)]


async def test_forgotten_alert_and_channel_start_from_zero() -> None:
    metrics = running()
    metrics.alert("late").updates.inc()
    metrics.forget("alert", "late")
    metrics.forget("channel", "late people")
    text = await own_page(metrics)
    assert '"late"' not in text
    assert '"late people"' not in text
    assert 'alert="lost"' in text
    metrics.alert("late")
    assert samples(await own_page(metrics))['tocsin_alert_updates_total{alert="late"}'] == 0


async def test_channel_has_exactly_one_state() -> None:
    """1 for the state it is in and 0 for the others; none for a channel that is removed."""
    metrics = Metrics("1.2.3")
    metrics.channel("people").state = lambda: ChannelState(up=False, state="refusing")
    metrics.removed_channels = lambda: {"pager": ChannelState(up=None, dead=3)}
    found = samples(await own_page(metrics))
    states = {name: value for name, value in found.items() if name.startswith("tocsin_channel_state")}
    assert states == {
        f'tocsin_channel_state{{channel="people",state="{state}"}}': float(state == "refusing")
        for state in ChannelStatus
    }
    assert found['tocsin_channel_up{channel="people"}'] == 0
    assert found['tocsin_channel_dead_letters{channel="pager"}'] == 3
