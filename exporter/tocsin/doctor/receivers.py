"""Receivers of webhooks: whether they can be reached, and how long their certificate is valid."""

import asyncio
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from yarl import URL

from tocsin.doctor.findings import SOON, Finding, Report
from tocsin.faults import why_unreachable


async def reached(name: str, url: str, seconds: float, now: float | None = None) -> Sequence[Finding]:
    """Connect to the host of a webhook's address, and send nothing."""
    report = Report(f"channels.{name}", "receiver")
    unknown = "whether it accepts notifications is not known before one is sent"
    if "{{" in url.partition("?")[0]:
        return [report.skipped(f"its address depends on the row, and {unknown}")]
    target = URL(url)
    secure = target.scheme == "https"
    try:
        async with asyncio.timeout(seconds):
            context = ssl.create_default_context() if secure else None
            _, writer = await asyncio.open_connection(target.host, target.port, ssl=context)
    except (OSError, TimeoutError) as error:
        why = "no answer" if isinstance(error, TimeoutError) else why_unreachable(error)
        return [report.error(f"{target.host} cannot be reached: {why}", "check its url, DNS, proxies and firewalls")]
    certificate = writer.get_extra_info("peercert")
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    found = [report.ok(f"{target.host} can be reached; {unknown}")]
    if certificate:
        found += _expiring(Report(f"channels.{name}", "certificate"), certificate, time.time() if now is None else now)
    return found


def _expiring(report: Report, certificate: dict[str, Any], now: float) -> list[Finding]:
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - now
    if left > SOON:
        return []
    words = f"the certificate of the receiver ends in {left / 86400:.0f} days"
    return [report.warning(words, "have it renewed; afterwards nothing is delivered")]
