"""Events that lack a column that their alert names: each is sent, counted and logged, and none counts as a
repeat. A whole process that receives events over HTTP."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.receiver import Receiver
from support.tocsin import TocsinProcess, running
from support.waiting import until

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-some-length"
GROUPED = {"interval": "1s", "group_by": ["customer"]}
ALERTS: dict[str, dict[str, Any]] = {
    "by_host": {"dedupe_by": ["host"]},
    "grouped": {"notify": [{"channel": "out", **GROUPED}]},
    "nested": {
        "labels": {"customer": "data.customer"},
        "value": "data.total",
        "key": ["data.customer"],
        "dedupe_by": ["data.customer", "data.deep.code"],
        "notify": [{"channel": "out", "interval": "1s", "group_by": ["data.customer"]}],
    },
    "mistaken": {"dedupe_by": ["data.custmer"], "labels": {"service": "service.name"}},
    "of_team": {"labels": ["team"], "key": ["host"]},
}


@dataclass(slots=True)
class Posted:
    """A process with all of these alerts, and what it sent."""

    tocsin: TocsinProcess
    receiver: Receiver

    async def post(self, alert: str, *events: dict[str, Any]) -> None:
        body = json.dumps(events).encode()
        status, text = await self.tocsin.post(f"/api/v1/events/{alert}", body, Authorization=f"Bearer {TOKEN}")
        assert status == 202, text

    async def sent(self, alert: str, count: int) -> list[dict[str, Any]]:
        """The bodies of so many messages of an alert."""

        def bodies() -> list[dict[str, Any]]:
            return [one.json for one in self.receiver.requests if one.json["alert"] == alert]

        await until(lambda: len(bodies()) >= count)
        assert len(bodies()) == count
        return bodies()

    async def until_counted(self, name: str, value: float, **labels: str) -> None:
        await self.tocsin.until_metric(f"tocsin_alert_{name}_total", value, **labels)


@pytest.fixture
async def posted(tmp_path: Path) -> AsyncIterator[Posted]:
    async with Receiver() as receiver:
        config = {
            "web": {"listen": "127.0.0.1:0"},
            "ledger": {"path": "ledger.db"},
            "sources": {"posted": {"type": "http", "token": TOKEN}},
            "channels": {"out": {"type": "webhook", "url": f"http://127.0.0.1:{receiver.port}/"}},
            "alerts": {name: {"source": "posted", "notify": ["out"], **alert} for name, alert in ALERTS.items()},
        }
        async with running(tmp_path, config) as tocsin:
            await tocsin.until_ready()
            yield Posted(tocsin, receiver)


async def test_events_without_named_column_are_all_sent(posted: Posted) -> None:
    """A sender that writes `hostname` where the alert deduplicates by `host`. A null is a value like any other."""
    column = {"alert": "by_host", "column": "host"}
    assert await posted.tocsin.metric("tocsin_alert_missing_columns_total", **column) == 0
    await posted.post("by_host", *({"hostname": name} for name in "abbc"))
    await posted.post("by_host", {"host": None, "n": 1}, {"host": None, "n": 2}, {"host": "a", "n": 3})
    rows = [body["row"] for body in await posted.sent("by_host", 6)]
    assert sorted(row.get("hostname", str(row.get("n"))) for row in rows) == ["1", "3", "a", "b", "b", "c"]
    await posted.until_counted("missing_columns", 4, **column)
    await posted.until_counted("repeated_events", 1, alert="by_host")
    lines = posted.tocsin.logged("lacks a column that the alert names")
    assert all(
        words in lines[0] for words in ("alert=by_host", "column=host", "dedupe_by[0]", "hostname", "it is sent")
    )
    # One line for the first event, one for the tenth, one for the hundredth.
    for start in range(0, 120, 5):
        await posted.post("of_team", *({"n": n} for n in range(start, start + 5)))
    await posted.until_counted("missing_columns", 120, alert="of_team", column="team")
    for name in ("team", "host"):
        assert len(posted.tocsin.logged("lacks a column", "alert=of_team", f"column={name}")) == 3


async def test_events_without_group_column_are_never_merged(posted: Posted) -> None:
    """They may belong to different people, so no message holds two of them."""
    await posted.post("grouped", *({"user": name} for name in "abc"), *({"customer": name} for name in "xxxyyy"))
    bodies = await posted.sent("grouped", 7)
    alone = [body for body in bodies if "user" in body["row"]]
    assert len(alone) == 3
    assert not any("merged" in body for body in alone)
    merged = [{one["row"]["customer"] for one in body["merged"]} for body in bodies if "merged" in body]
    assert sorted(map(sorted, merged)) == [["x"], ["y"]]


async def test_nested_names_work_wherever_columns_are_named(posted: Posted) -> None:
    """`data.customer` is the field `customer` of `data`. A path that leads nowhere is a missing column; a column whose
    own name has a dot is found by it."""
    rows = (("x", 1.5, 1), ("x", 2, 1), ("x", 3, 2), ("y", 4, None), ("y", 5, None))
    events = [{"data": {"customer": name, "total": total, "deep": {"code": code}}} for name, total, code in rows]
    await posted.post("nested", *events)
    shown = sorted((body["labels"]["customer"], body["value"]) for body in await posted.sent("nested", 3))
    assert shown == [("x", 1.5), ("x", 3), ("y", 4)]
    await posted.until_counted("repeated_events", 2, alert="nested")
    assert not posted.tocsin.logged("lacks a column")
    await posted.post("mistaken", *({"data": {"customer": n}, "service.name": "shop"} for n in range(3)))
    assert [body["labels"] for body in await posted.sent("mistaken", 3)] == [{"service": "shop"}] * 3
    await posted.until_counted("missing_columns", 3, alert="mistaken", column="data.custmer")
    await posted.until_counted("missing_columns", 0, alert="mistaken", column="service.name")


async def test_value_that_is_not_a_number_is_logged_once(posted: Posted) -> None:
    """A decimal as Debezium writes it by default."""
    await posted.post("nested", *({"data": {"customer": str(n), "total": "AfQ=", "deep": {"code": n}}} for n in "ab"))
    assert [body["value"] for body in await posted.sent("nested", 2)] == ["NaN"] * 2
    [line] = posted.tocsin.logged("the value is not a number")
    assert all(part in line for part in ("alert=nested", "column=data.total", "decimal.handling.mode"))
