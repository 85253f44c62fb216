"""Checks, and what they find."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tocsin.errors import LedgerError, SourceError
from tocsin.faults import unexpected

_AT_ONCE = 8
SOON = 14 * 86400.0
"""Seconds before its end in which a certificate is a warning."""


class Severity(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    SKIPPED = "skipped"
    """It could not be checked."""
    WARNING = "warning"
    """It works now, and something will be lost or late."""
    ERROR = "error"
    """It does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found."""

    severity: Severity
    place: str
    """The part of the configuration, dotted, as in `sources.warehouse`; or `process`."""
    check: str
    """What was checked, in one or two words. The same for all findings of a kind."""
    message: str
    """One sentence without a secret."""
    fix: str = ""
    """What to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one place."""

    place: str
    name: str
    run: Callable[[], Awaitable[Sequence[Finding]]]
    limit: float = 60.0
    """Seconds after which it counts as skipped."""


@dataclass(frozen=True, slots=True)
class Report:
    """Makes the findings of a check at a place."""

    place: str
    check: str

    def ok(self, message: str) -> Finding:
        return self._made(Severity.OK, message, "")

    def skipped(self, message: str, fix: str = "") -> Finding:
        return self._made(Severity.SKIPPED, message, fix)

    def warning(self, message: str, fix: str) -> Finding:
        return self._made(Severity.WARNING, message, fix)

    def error(self, message: str, fix: str) -> Finding:
        return self._made(Severity.ERROR, message, fix)

    def _made(self, severity: Severity, message: str, fix: str) -> Finding:
        return Finding(severity=severity, place=self.place, check=self.check, message=message, fix=fix)


async def examine(
    checks: Sequence[Check], *, progress: Callable[[Sequence[Check]], None] = lambda _: None
) -> list[Finding]:
    """Run all checks at once, and return their findings in the order of the checks. One that fails, or takes longer
    than its limit, stops no other. `progress`: called with the checks that are not done yet, whenever one is."""
    waiting = dict.fromkeys(range(len(checks)))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def run(number: int, check: Check) -> Sequence[Finding]:
        async with gate:
            found = await _guarded(check)
        del waiting[number]
        progress([checks[left] for left in waiting])
        return found

    progress(checks)
    found = await asyncio.gather(*(run(number, check) for number, check in enumerate(checks)))
    # Two checks that ask the same server may fail alike.
    once = {(one.place, one.severity, one.message): one for some in found for one in some}
    return [*once.values()]


async def _guarded(check: Check) -> Sequence[Finding]:
    report = Report(check.place, check.name)
    try:
        async with asyncio.timeout(check.limit):
            return await check.run()
    except TimeoutError:
        return [report.skipped(f"no answer within {check.limit:g} s")]
    except (SourceError, LedgerError) as error:
        return [report.skipped(str(error))]
    except Exception as error:  # noqa: BLE001 - one that fails must not hide the others
        return [report.skipped(unexpected(error))]
