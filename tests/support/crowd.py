"""A process with sixty alerts and twenty thousand rows, for the status page."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from support.web import LATE, PEOPLE, START, FakeProcess
from tocsin.alert import Alert
from tocsin.firing import Firing, Phase
from tocsin.model import Column, Columns, Row
from tocsin.web import views
from tocsin.web.base import Rows

ALERTS, ROWS = 60, 20_000
COLUMNS: Columns = tuple(
    Column(name=name, oid=oid)
    for name, oid in (("order", 25), ("customer", 25), ("region", 25), ("severity", 25), ("minutes", 701))
)
_CUSTOMERS = (
    "Acme",
    "Bolt & Sons",
    "Crate",
    "Dynamo Ltd",
    "Eiger",
    "Foundry",
    "Glass House",
    "Harbour",
    "Ink",
    "Jetty",
)
_REGIONS = ("eu-north", "eu-south", "us-east", "us-west", "ap-south")
_SEVERITIES = ("critical", "warning", "warning", "info")
NAMES = tuple(
    f"{what}_{which}"
    for what in ("late", "stuck", "unpaid", "lost", "doubled", "refused")
    for which in (
        "orders",
        "parcels",
        "invoices",
        "refunds",
        "pickings",
        "returns",
        "quotes",
        "bookings",
        "claims",
        "jobs",
    )
)


def row(number: int) -> Row:
    """The row of an order."""
    return (
        str(1_000_000 + number),
        _CUSTOMERS[number % 10],
        _REGIONS[number % 5],
        _SEVERITIES[number % 4],
        str(number * 7 % 900 + 0.5),
    )


def fired(number: int, *, phase: Phase = Phase.FIRING, seconds: float = 0.0) -> Firing:
    """The row as it fires."""
    found, at = row(number), START - number * 37_000 - round(seconds * 1000)
    return Firing(
        fingerprint=f"{number:032x}", phase=phase, started_at=at, marked_at=at, row=found, counts=((1, found),)
    )


class Crowd(FakeProcess):
    """The rows are spread over the alerts, half of them in the first. One alert is in error; twelve channels."""

    def __init__(self, *, rows: int = ROWS) -> None:
        super().__init__()
        self.summary = "Order {{ row.order }} of {{ labels.customer }} is {{ row.minutes }} minutes late"
        spread = [rows // 2, *([rows // 2 // (ALERTS - 2)] * (ALERTS - 2))]
        begin = 0
        self.fired = {}
        for name, count in zip(NAMES, spread, strict=False):
            self.fired[name] = [fired(number) for number in range(begin, begin + count)]
            begin += count
        self.alert_list = [status(name, len(self.fired.get(name, ()))) for name in NAMES]
        self.alert_list[-1] |= {"state": "error", "message": "the view is gone; create it again"}
        self.channel_list = [{**PEOPLE, "name": f"team-{n}", "delivered": 40 * n} for n in range(12)]

    def alert(self, name: str) -> Alert:
        found = SimpleNamespace(
            name=name,
            labels={name: name for name in ("order", "customer", "region", "severity")},
            static_labels={},
            value="minutes",
            annotations={"summary": self.summary} if self.summary else {},
        )
        return cast("Alert", found)

    def rows(self, alert: str) -> Rows | None:
        if alert not in self.fired:
            return None
        return Rows(self.alert(alert), COLUMNS, self.fired[alert])

    def firing(self, alert: str, limit: int) -> Sequence[dict[str, Any]]:
        return views.firings(self.fired.get(alert, [])[:limit], self.alert(alert), COLUMNS)

    def change(self, name: str, place: int, minutes: float) -> None:
        """Change the value of a row."""
        before = self.fired[name][place]
        self.fired[name][place] = replace(before, row=(*before.row[:-1], str(minutes)))


def status(name: str, firing: int) -> dict[str, Any]:
    """An alert as the API has it."""
    return {**LATE, "name": name, "firing": firing, "series": min(firing, 10_000)}
