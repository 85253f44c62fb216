"""What the status of the running process says: /api/v1/status. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from tocsin.config import Config
from tocsin.config.parts import digest
from tocsin.doctor.findings import SOON, Finding, Report
from tocsin.settings import duration_text

_GAP_FIX = "keep downtimes short; in Materialize, retain more history (the check `history`). PostgreSQL keeps none"
_YOUNG = 120.0
"""Seconds after its start in which a process need not have been scraped."""
_UNREAD = 300.0
"""Seconds without a scrape after which Prometheus shows no series any more."""


def examined(status: Mapping[str, Any], config: Config, version: str) -> list[Finding]:
    """Judge the status of the process that runs. `config`: the configuration as the files have it now."""
    return [
        *_configuration(status, config),
        *_version(status, version),
        *_states(status),
        *_alerts(status["alerts"]),
        *_scrapes(status),
        *_certificate(status),
    ]


def _configuration(status: Mapping[str, Any], config: Config) -> Iterator[Finding]:
    report, running = Report("process", "configuration"), status["configuration"]
    if running["refused"]:
        yield report.error(
            f"the last reload was refused, so it runs the configuration of {running['since']}: {running['refused'][0]}",
            "correct the file, and reload (SIGHUP)",
        )
    elif running["digest"] is not None and running["digest"] != digest(config):
        yield report.warning(
            f"it runs another configuration, which it read at {running['since']}",
            "reload it (SIGHUP). If the file has not changed: run the doctor with the process's environment variables",
        )
    else:
        yield report.ok("it runs the configuration as the file has it now")


def _version(status: Mapping[str, Any], version: str) -> Iterator[Finding]:
    if status["version"] != version:
        words = f"it is version {status['version']}, and {version} is installed"
        yield Report("process", "version").warning(words, "restart it")


_STATES = "docs/runbooks.md has what to do for each state; `tocsin alerts` and the status page show more"


def _states(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What it says itself: not ready, or ready with warnings."""
    report = Report("process", "readiness")
    for reason in status["reasons"]:
        yield report.error(reason, _STATES)
    for warning in status["warnings"]:
        yield report.warning(warning, _STATES)
    if not status["reasons"]:
        yield report.ok("it is ready")


def _alerts(alerts: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for alert in alerts:
        place = f"alerts.{alert['name']}"
        if alert["dropped"]:
            words = f"{alert['dropped']} rows have no series: max_series is reached"
            fix = "use fewer labels, or raise max_series; every row is notified all the same"
            yield Report(place, "series").warning(words, fix)
        if alert["gaps"]:
            count = alert["gaps"]
            words = f"{count} gap{'' if count == 1 else 's'} since its start: rows that came and went are not notified"
            yield Report(place, "gaps").warning(words, _GAP_FIX)


def _scrapes(status: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether Prometheus reads /metrics. People and scripts read it too, so readers are named."""
    report, now = Report("process", "scrapes"), _seconds(status["time"])
    recent = [one for one in status["scrapes"] if now - _seconds(one["last"]) <= _UNREAD]
    if recent:
        readers = ", ".join(f"{one['agent'] or 'an unnamed client'} from {one['address']}" for one in recent)
        last = min(now - _seconds(one["last"]) for one in recent)
        count = f"{len(recent)} reader{'' if len(recent) == 1 else 's'}"
        words = f"{count} of /metrics ({readers}), the last {last:.0f} s ago"
        if any(one["agent"].startswith("Prometheus/") for one in recent):
            yield report.ok(words)
        else:
            yield report.warning(f"{words}; none of them says that it is Prometheus", _SCRAPE)
        return
    if now - _seconds(status["since"]) < _YOUNG:
        yield report.skipped("it has just started, and /metrics was not read yet")
        return
    ago = [now - _seconds(one["last"]) for one in status["scrapes"]]
    since = f"for {duration_text(round(min(ago)))}" if ago else "since its start"
    yield report.warning(f"no one has read /metrics {since}: Prometheus has no series of it", _SCRAPE)


def _certificate(status: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the certificate of the port ends soon. `certificate_ends`: wall-clock seconds; absent without TLS."""
    if (ends := status.get("certificate_ends")) is None:
        return
    report, left = Report("web.config_file", "certificate"), ends - _seconds(status["time"])
    fix = "put a new one into the same files; it takes effect at once"
    if left > SOON:
        yield report.ok(f"it is valid for {left / 86400:.0f} days")
    elif left > 0:
        yield report.warning(f"it ends in {left / 86400:.0f} days: then Prometheus and browsers refuse the port", fix)
    else:
        yield report.error("it has ended: Prometheus and browsers refuse the port", fix)


_SCRAPE = "add it to scrape_configs of Prometheus, and check its page Status > Targets (docs/metrics.md)"


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
