"""Tocsin's own metrics are those of the table, named as Prometheus's conventions ask."""

import asyncio
import re
import shutil
import subprocess

import pytest

from tocsin.dispatch import ChannelStatus
from tocsin.errors import Reason, SourceReason
from tocsin.exposition import AlertStatus, ChannelState, Metrics, Page, State
from tocsin.exposition.table import TABLE, Definition
from tocsin.model import Kind

LATE = AlertStatus(
    name="late",
    source="mz",
    state=State.UP,
    firing=2,
    frontier=1_700_000_000_500,
    last_progress=5.0,
    series=2,
    dropped=1,
    duplicates=3,
)


async def page_of(metrics: Metrics) -> str:
    return b"".join((await Page(metrics).scrape("", "", 0.0)).body).decode()


def running() -> Metrics:
    metrics = Metrics("1.2.3")
    for name in ("late", "lost"):
        metrics.alert(name).status = lambda: LATE
        metrics.channel(f"{name} people").state = lambda: ChannelState(
            state="up", pending=1, oldest_pending=7.0, dead=3
        )
    metrics.alert("late").missing_column("customer")
    metrics.source("queue")
    return metrics


def samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_page_shows_exactly_the_declared_metrics() -> None:
    text = await page_of(running())
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


@pytest.mark.parametrize("definition", TABLE.values(), ids=lambda definition: definition.name)
def test_metric_names_follow_conventions(definition: Definition) -> None:
    name, kind = definition.name, definition.type
    assert re.fullmatch(r"tocsin_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") == (kind == "counter")
    assert name.endswith("_info") == (kind == "info")
    assert not name.endswith(("_count", "_sum", "_bucket", "_milliseconds", "_ms"))
    assert kind != "histogram" or name.endswith("_seconds")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_accepts_the_page() -> None:
    text = await page_of(running())
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def test_label_values_start_at_zero() -> None:
    found = samples(await page_of(running()))
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
    late.transitions[Kind.FIRED].inc(2)
    late.source_errors[SourceReason.STALLED].inc()
    late.commit_seconds.observe(0.02)
    people.attempts.inc()
    people.failures[Reason.TIMEOUT].inc()
    people.delivery_seconds.observe(4000.0)
    metrics.reloaded(successful=True, at=100.0)
    metrics.reloaded(successful=False, at=200.0)
    found = samples(await page_of(metrics))
    assert found['tocsin_alert_updates_total{alert="late"}'] == 7
    assert found['tocsin_alert_updates_total{alert="lost"}'] == 0
    assert found['tocsin_alert_transitions_total{alert="late",kind="fired"}'] == 2
    assert found['tocsin_alert_source_errors_total{alert="late",reason="stalled"}'] == 1
    assert found['tocsin_alert_commit_seconds_bucket{alert="late",le="0.025"}'] == 1
    assert found['tocsin_channel_failures_total{channel="late people",reason="timeout"}'] == 1
    assert found['tocsin_channel_delivery_seconds_bucket{channel="late people",le="3600.0"}'] == 0
    assert found['tocsin_channel_delivery_seconds_bucket{channel="late people",le="+Inf"}'] == 1
    assert found["tocsin_config_last_reload_successful"] == 0
    assert found["tocsin_config_last_reload_success_timestamp_seconds"] == 100
    assert found["process_open_fds"] > 0
    assert found['tocsin_alert_up{alert="late"}'] == 1
    assert found['tocsin_alert_frontier_timestamp_seconds{alert="late"}'] == 1_700_000_000.5
    series = ("series", "series_dropped", "duplicate_series_total")
    assert [found[f'tocsin_alert_{name}{{alert="late"}}'] for name in series] == [2, 1, 3]
    assert found['tocsin_channel_oldest_pending_timestamp_seconds{channel="late people"}'] == 7


async def test_unknown_values_have_no_sample() -> None:
    """Also those of an alert without a gauge."""
    metrics = Metrics("1.2.3")
    metrics.alert("late")
    metrics.channel("people")
    found = samples(await page_of(metrics))
    assert found['tocsin_alert_up{alert="late"}'] == 0
    unknown = ("frontier_timestamp", "last_progress_timestamp", "oldest_pending_timestamp", "_series")
    assert not [name for name in found if any(part in name for part in unknown)]


async def test_forgotten_alert_and_channel_start_from_zero() -> None:
    metrics = running()
    metrics.alert("late").updates.inc()
    metrics.forget("alert", "late")
    metrics.forget("channel", "late people")
    text = await page_of(metrics)
    assert '"late"' not in text
    assert '"late people"' not in text
    assert 'alert="lost"' in text
    metrics.alert("late")
    assert samples(await page_of(metrics))['tocsin_alert_updates_total{alert="late"}'] == 0


async def test_channel_has_exactly_one_state() -> None:
    """1 for the state it is in and 0 for the others; none for a channel that is removed."""
    metrics = Metrics("1.2.3")
    metrics.channel("people").state = lambda: ChannelState(up=False, state="refusing")
    metrics.removed_channels = lambda: {"pager": ChannelState(up=None, dead=3)}
    found = samples(await page_of(metrics))
    states = {name: value for name, value in found.items() if name.startswith("tocsin_channel_state")}
    assert states == {
        f'tocsin_channel_state{{channel="people",state="{state}"}}': float(state == "refusing")
        for state in ChannelStatus
    }
    assert found['tocsin_channel_up{channel="people"}'] == 0
    assert found['tocsin_channel_dead_letters{channel="pager"}'] == 3


async def test_refused_requests_are_counted_by_status() -> None:
    """Every status has a series from the start; an unexpected one is `other`."""
    metrics = Metrics("1.2.3")
    source = metrics.source("posted")
    for status in (401, 401, 413, 418):
        source.refused_request(status)
    found = samples(await page_of(metrics))
    counts = [
        found[f'tocsin_source_refused_requests_total{{code="{code}",source="posted"}}']
        for code in ("400", "401", "408", "413", "other")
    ]
    assert counts == [0, 2, 0, 1, 1]
