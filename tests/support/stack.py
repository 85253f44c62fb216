"""The shipped files of the full stack: their content, and copies with the addresses and paths of a test."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from support.ports import free_port
from tocsin.config.document import parse
from tocsin.exposition.table import TABLE

ROOT = Path(__file__).parents[2]
COMPOSED = ROOT / "compose" / "tocsin.yaml"
"""The configuration of Tocsin in the full stack."""

KEY_FILE = ROOT / "compose" / "inbox-key"
_INBOX = "http://inbox:8925"

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


def tocsin_config(folder: Path, inbox: str, source: dict[str, Any]) -> dict[str, Any]:
    """Tocsin's configuration. It listens at one port, also when it is started again, or Prometheus would not find it.

    Args:
        inbox: the inbox's address.
        source: what is said of the server instead of its address in the stack.
    """
    environment = {"NOVU_URL": inbox, "NOVU_API_KEY_PATH": str(KEY_FILE), "WEBHOOK_URL": f"{inbox}/webhook/audit"}
    config: Any = parse(COMPOSED.read_text(encoding="utf-8"), str(COMPOSED), environment).data
    config["ledger"]["path"] = str(folder / "tocsin.db")
    config["web"]["listen"] = f"127.0.0.1:{free_port()}"
    config["sources"]["materialize"] |= source
    return dict(config)


def prometheus_config(tocsin: str, alertmanager: int) -> dict[str, Any]:
    """Prometheus's configuration.

    Args:
        tocsin: host and port. Of the other services there are none.
        alertmanager: port on this machine.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["rule_files"] = [str(ROOT / "prometheus" / pattern) for pattern in config["rule_files"]]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]
    there = {"tocsin": tocsin, "alertmanager": f"127.0.0.1:{alertmanager}"}
    unused = f"127.0.0.1:{free_port()}"
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [there.get(job["job_name"], unused)]}]
    return config


def alertmanager_file(folder: Path, inbox: str) -> Path:
    """Alertmanager's configuration, as a file in `folder`. `inbox`: the inbox's address."""
    text = (ROOT / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    assert _INBOX in text
    file = folder / "alertmanager.yml"
    file.write_text(text.replace(_INBOX, inbox), encoding="utf-8")
    return file
