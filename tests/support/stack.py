"""What the files of the full stack say about each other."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from tocsin.exposition.table import TABLE

COMPOSED = Path(__file__).parents[2] / "compose" / "tocsin.yaml"
"""The configuration of Tocsin in the full stack."""

_ELSEWHERE = {
    # by Prometheus itself
    "ALERTS",
    "ALERTS_FOR_STATE",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "up",
    # by Prometheus's library in Tocsin
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    # by Alertmanager
    "alertmanager_notification_requests_failed_total",
    "alertmanager_notification_requests_total",
    # by the producer
    "tocsin_producer_events_delivered_total",
    "tocsin_producer_events_sent_total",
}


@cache
def labels_of_gauges() -> Mapping[str, frozenset[str]]:
    """The gauges of the stack's alerts, with their labels."""
    alerts = yaml.safe_load(COMPOSED.read_text(encoding="utf-8"))["alerts"]
    return {alert.get("metric", name): frozenset(alert["labels"]) for name, alert in alerts.items()}


@cache
def known_metrics() -> frozenset[str]:
    """Every metric that rules and dashboards may read."""
    own = {
        f"{name}{suffix}"
        for name, definition in TABLE.items()
        for suffix in (("_bucket", "_count", "_sum") if definition.type == "histogram" else ("",))
    }
    return frozenset(own | _ELSEWHERE | labels_of_gauges().keys())


def seconds(duration: str) -> float:
    """A duration as Prometheus writes it."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    parts = re.findall(r"(\d+)(ms|[smhd])", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(int(number) * units[unit] for number, unit in parts)
