"""What matchers of a silence match now."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tocsin.alert import Alert
from tocsin.config.problems import nearest
from tocsin.firing import Phase
from tocsin.ledger.base import Filter, Ledger, Status
from tocsin.silences import Matchers
from tocsin.silences.matchers import Matcher, Operator
from tocsin.web import views
from tocsin.web.base import Rows

_NAME = "alertname"
_SHOWN = 20
"""Rows that are shown."""
_MOST = 10_000
"""Pending notifications that are compared."""
_STEP = 200
"""Rows that are compared at once."""


@dataclass(slots=True)
class Matched:
    """What matches now."""

    firing: Counter[str] = field(default_factory=Counter)
    """Rows that fire, by alert."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Some of them, as `views.firings` makes them."""
    pending: Counter[str] = field(default_factory=Counter)
    """Pending notifications, by channel."""
    unknown: list[str] = field(default_factory=list)
    """Labels in the matchers that no alert has."""
    warnings: list[str] = field(default_factory=list)
    """See `warnings_of`."""

    def json(self, matchers: Matchers) -> dict[str, Any]:
        """As the API returns it."""
        return {
            "matchers": str(matchers),
            "firing": dict(self.firing),
            "rows": self.rows,
            "pending": dict(self.pending),
            "unknown_labels": self.unknown,
            "warnings": self.warnings,
        }


async def matched(
    matchers: Matchers,
    rows: Iterable[Rows],
    ledger: Ledger | None,
    alerts: Mapping[str, Alert],
) -> Matched:
    """Find what matches. `rows`: of each alert on rows. `alerts`: those of the configuration. Raises LedgerError."""
    known = _labels(alerts.values())
    unknown = sorted({one.name for one in matchers.each} - known)
    found = Matched(unknown=unknown, warnings=[*warnings_of(matchers, alerts)])
    for one in rows:
        await _match_rows(matchers, one, found)
    records = [] if ledger is None else await ledger.find(Filter(status=Status.PENDING, limit=_MOST))
    for number, record in enumerate(records):
        if number % _STEP == 0:
            await asyncio.sleep(0)
        labels = views.RowView(alerts.get(record.alert), record.columns).labels(record.row)
        found.pending[record.channel] += matchers.match({_NAME: record.alert, **labels})
    found.pending = +found.pending
    return found


def warnings_of(matchers: Matchers, alerts: Mapping[str, Alert]) -> Iterator[str]:
    """What the matchers name although no alert of the configuration has it: probably a typo, which holds back nothing,
    or too much."""
    if not alerts:
        return  # a process that is starting has none yet
    by_name = [one for one in matchers.each if one.name == _NAME]
    for one in by_name:
        if not any(one.matches(name) is not one.operator.is_negative for name in alerts):
            yield f"no alert of the configuration matches {_positive(one)}{nearest(one.value, alerts)}"
    meant = [alert for name, alert in alerts.items() if all(one.matches(name) for one in by_name)]
    some = "that alertname matches" if meant and len(meant) < len(alerts) else "of the configuration"
    known = _labels(meant or alerts.values())
    for name in sorted({one.name for one in matchers.each} - known):
        yield f"no alert {some} has the label {name}{nearest(name, known)}"


def _positive(one: Matcher) -> Matcher:
    return replace(one, operator=Operator.MATCHES if one.expression is not None else Operator.EQUAL)


def _labels(alerts: Iterable[Alert]) -> set[str]:
    return {_NAME}.union(*({*one.labels, *one.static_labels} for one in alerts))


async def _match_rows(matchers: Matchers, rows: Rows, found: Matched) -> None:
    try:
        firings = list(rows.firings)
    except RuntimeError:
        return  # a thread applies a large batch
    view, name = views.RowView(rows.alert, rows.columns), rows.alert.name
    for number, firing in enumerate(firings):
        if number % _STEP == 0:
            await asyncio.sleep(0)
        if firing.phase is Phase.PENDING or not matchers.match({_NAME: name, **view.labels(firing.row)}):
            continue
        found.firing[name] += 1
        if len(found.rows) < _SHOWN:
            # Only of these: a summary costs a hundred times as much as the comparison.
            found.rows += views.firings([firing], rows.alert, rows.columns)
