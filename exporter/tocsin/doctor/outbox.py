"""Checks of the ledger: dead letters, and notifications that wait for long."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from tocsin.app.ledgers import opened
from tocsin.config import Config
from tocsin.doctor.findings import Finding, Report
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger.base import Backlog, Filter, Record, Status
from tocsin.settings import duration_text

_LONG = 600.0
"""Seconds that a notification may be pending without a warning."""


async def examined(config: Config) -> Sequence[Finding]:
    """Open the ledger beside the process that writes it, and check what it holds of each channel."""
    place = "ledger.path" if config.ledger.url is None else "ledger.url"
    report = Report(place, "outbox")
    if config.ledger.url is None and not await asyncio.to_thread(Path(config.ledger.path).exists):
        return [report.skipped("there is no ledger yet; `tocsin run` makes it")]
    try:
        ledger = await opened(config.ledger, runs_alerts=False)
    except LedgerError as error:
        if error.reason is LedgerReason.OLDER:
            return [report.skipped(str(error))]
        return [report.error(str(error), "see docs/runbooks.md; the ledger holds what is not sent yet")]
    try:
        backlog, now = await ledger.backlog(), ledger.now()
        newest = {
            name: found[0]
            for name, one in backlog.items()
            if one.dead and (found := await ledger.find(Filter(status=Status.DEAD, channel=name, limit=1)))
        }
    finally:
        await ledger.close()
    findings = judged(backlog, newest, [*config.channels], now)
    return findings or [report.ok("no dead letters, and nothing waits for long")]


def judged(
    backlog: Mapping[str, Backlog], newest: Mapping[str, Record], channels: Sequence[str], now: float
) -> list[Finding]:
    """Judge what the ledger holds, by channel. `newest`: the newest dead letter of a channel."""
    found = []
    for name, one in sorted(backlog.items()):
        if one.dead:
            letters = f"{one.dead} dead letter{'' if one.dead == 1 else 's'}"
            last = f"; the newest is {newest[name].reason}: {newest[name].detail}" if name in newest else ""
            fix = (
                f"`tocsin outbox list --dead --channel {name}` shows why; fix that, then "
                f"`tocsin outbox retry --all --channel {name}`, or drop them"
            )
            found.append(Report(f"channels.{name}", "dead letters").warning(letters + last, fix))
        if one.pending and name not in channels:
            words = f"{one.pending} notifications of a channel that is not configured"
            fix = "configure a channel of this name again, or drop them: `tocsin outbox list --pending`"
            found.append(Report(f"channels.{name}", "pending").warning(words, fix))
        elif one.oldest is not None and now - one.oldest > _LONG:
            words = f"{one.pending} pending, the oldest for {duration_text(round(now - one.oldest))}"
            fix = f"`tocsin outbox list --pending --channel {name}` shows the last error"
            found.append(Report(f"channels.{name}", "pending").warning(words, fix))
    return found
