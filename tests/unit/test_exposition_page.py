"""The page: formats, encodings, families, and one consistent state."""

import asyncio
import gzip
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tocsin.exposition import Gauges, GaugeSpec, Metrics, Page, Scrape
from tocsin.model import Row

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


async def test_rows_come_before_own_metrics() -> None:
    page = page_of(gauges_of(SPEC, {"1": ("Acme", "3")}))
    text = await text_of(page, PROMETHEUS_2)
    assert text.index("late_orders{") < text.index("tocsin_alert_up")
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1


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


async def test_simultaneous_scrapes_are_independent() -> None:
    page = page_of(gauges_of(SPEC, {str(place): (str(place), "1") for place in range(5000)}))
    scrapes = await asyncio.gather(*(page.scrape("", encoding, 0.0) for encoding in ["gzip", "", "gzip", ""]))
    assert [len(read(scrape)["late_orders"].samples) for scrape in scrapes] == [5000] * 4
