"""What matchers of a silence match now."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tocsin.alert import Alert
from tocsin.firing import Phase
from tocsin.ledger.base import Filter, Ledger, Status
from tocsin.silences import Matchers
from tocsin.web import views
from tocsin.web.base import Rows

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

    def json(self, matchers: Matchers) -> dict[str, Any]:
        """As the API returns it."""
        return {
            "matchers": str(matchers),
            "firing": dict(self.firing),
            "rows": self.rows,
            "pending": dict(self.pending),
            "unknown_labels": self.unknown,
        }


async def matched(
    matchers: Matchers,
    rows: Iterable[Rows],
    ledger: Ledger | None,
    alerts: Mapping[str, Alert],
) -> Matched:
    """Find what matches. `rows`: of each alert on rows. `alerts`: those of the configuration. Raises LedgerError."""
    known = {"alertname"}.union(*({*one.labels, *one.static_labels} for one in alerts.values()))
    found = Matched(unknown=sorted({one.name for one in matchers.each} - known))
    for one in rows:
        await _match_rows(matchers, one, found)
    records = [] if ledger is None else await ledger.find(Filter(status=Status.PENDING, limit=_MOST))
    for number, record in enumerate(records):
        if number % _STEP == 0:
            await asyncio.sleep(0)
        labels = views.RowView(alerts.get(record.alert), record.columns).labels(record.row)
        found.pending[record.channel] += matchers.match({"alertname": record.alert, **labels})
    found.pending = +found.pending
    return found


async def _match_rows(matchers: Matchers, rows: Rows, found: Matched) -> None:
    try:
        firings = list(rows.firings)
    except RuntimeError:
        return  # a thread applies a large batch
    view, name = views.RowView(rows.alert, rows.columns), rows.alert.name
    for number, firing in enumerate(firings):
        if number % _STEP == 0:
            await asyncio.sleep(0)
        if firing.phase is Phase.PENDING or not matchers.match({"alertname": name, **view.labels(firing.row)}):
            continue
        found.firing[name] += 1
        if len(found.rows) < _SHOWN:
            # Only of these: a summary costs a hundred times as much as the comparison.
            found.rows += views.firings([firing], rows.alert, rows.columns)
