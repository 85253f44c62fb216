"""Events that lack a column that their alert names: each is sent, counted and logged, and none counts as a
repeat. Whole processes that receive events over HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.receiver import Receiver
from support.tocsin import TocsinProcess, running
from support.waiting import until

pytestmark = pytest.mark.e2e

TOKEN = "a-token-of-some-length"


def config(receiver: Receiver, notify: dict[str, Any] | None = None, **alert: Any) -> dict[str, Any]:
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": "ledger.db"},
        "sources": {"posted": {"type": "http", "token": TOKEN}},
        "channels": {"out": {"type": "webhook", "url": f"http://127.0.0.1:{receiver.port}/"}},
        "alerts": {"failed": {"source": "posted", **alert, "notify": [{"channel": "out", **(notify or {})}]}},
    }


async def post(tocsin: TocsinProcess, *events: dict[str, Any]) -> None:
    body = json.dumps(events).encode()
    status, text = await tocsin.post("/api/v1/events/failed", body, Authorization=f"Bearer {TOKEN}")
    assert status == 202, text


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [request.json for request in receiver.requests]


async def test_events_without_dedupe_column_are_all_sent(tmp_path: Path) -> None:
    """A sender that writes `hostname` where the alert deduplicates by `host`."""
    async with Receiver() as receiver, running(tmp_path, config(receiver, dedupe_by=["host"])) as tocsin:
        await tocsin.until_ready()
        assert await tocsin.metric("tocsin_alert_missing_columns_total", alert="failed", column="host") == 0
        await post(tocsin, {"hostname": "a"}, {"hostname": "b"}, {"hostname": "b"})
        await post(tocsin, {"hostname": "c"})
        await until(lambda: len(receiver.requests) == 4)
        assert sorted(body["row"]["hostname"] for body in bodies(receiver)) == ["a", "b", "b", "c"]
        await tocsin.until_metric("tocsin_alert_missing_columns_total", 4, alert="failed", column="host")
        assert await tocsin.metric("tocsin_alert_repeated_events_total", alert="failed") == 0
        [line] = tocsin.logged("lacks a column that the alert names")
        assert all(words in line for words in ("alert=failed", "column=host", "dedupe_by[0]", "hostname", "it is sent"))


async def test_null_in_dedupe_column_is_a_value(tmp_path: Path) -> None:
    """A field that is there and null is equal to another null; a field that is not there is equal to nothing."""
    async with Receiver() as receiver, running(tmp_path, config(receiver, dedupe_by=["host"])) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, {"host": None, "n": 1}, {"host": None, "n": 2}, {"n": 3}, {"n": 4}, {"host": "a", "n": 5})
        await until(lambda: len(receiver.requests) == 4)
        assert sorted(body["row"]["n"] for body in bodies(receiver)) == [1, 3, 4, 5]
        await tocsin.until_metric("tocsin_alert_repeated_events_total", 1, alert="failed")


async def test_events_without_group_column_are_never_merged(tmp_path: Path) -> None:
    """They may belong to different people, so no message holds two of them."""
    of_each = {"interval": "1s", "group_by": ["customer"]}
    async with Receiver() as receiver, running(tmp_path, config(receiver, of_each)) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, *({"user": name} for name in "abc"), *({"customer": name} for name in "xxxyyy"))
        await until(lambda: sum(len(body.get("merged", [1])) for body in bodies(receiver)) == 9)
    alone = [body for body in bodies(receiver) if "user" in body["row"]]
    assert len(alone) == 3
    assert not any("merged" in body for body in alone)
    merged = [{one["row"]["customer"] for one in body["merged"]} for body in bodies(receiver) if "merged" in body]
    assert sorted(map(sorted, merged)) == [["x"], ["y"]]


async def test_nested_names_work_wherever_columns_are_named(tmp_path: Path) -> None:
    """`data.customer` is the field `customer` of the object `data`, for labels, value, key, dedupe_by and group_by."""
    alert: dict[str, Any] = {
        "labels": {"customer": "data.customer"},
        "value": "data.total",
        "key": ["data.customer"],
        "dedupe_by": ["data.customer", "data.deep.code"],
    }
    of_each = {"interval": "1s", "group_by": ["data.customer"]}
    async with Receiver() as receiver, running(tmp_path, config(receiver, of_each, **alert)) as tocsin:
        await tocsin.until_ready()
        events = [
            {"data": {"customer": name, "total": total, "deep": {"code": code}}}
            for name, total, code in (("x", 1.5, 1), ("x", 2, 1), ("x", 3, 2), ("y", 4, None), ("y", 5, None))
        ]
        await post(tocsin, *events)
        await until(lambda: len(receiver.requests) == 3)
        await tocsin.until_metric("tocsin_alert_repeated_events_total", 2, alert="failed")
        assert not tocsin.logged("lacks a column")
    shown = sorted((body["labels"]["customer"], body["value"]) for body in bodies(receiver))
    assert shown == [("x", 1.5), ("x", 3), ("y", 4)]


async def test_missing_nested_field_is_reported_by_name(tmp_path: Path) -> None:
    """A path that leads nowhere is a missing column; a column whose own name has a dot is found by it."""
    alert: dict[str, Any] = {"dedupe_by": ["data.custmer"], "labels": {"service": "service.name"}}
    async with Receiver() as receiver, running(tmp_path, config(receiver, **alert)) as tocsin:
        await tocsin.until_ready()
        await post(tocsin, *({"data": {"customer": n}, "service.name": "shop"} for n in range(3)))
        await until(lambda: len(receiver.requests) == 3)
        await tocsin.until_metric("tocsin_alert_missing_columns_total", 3, alert="failed", column="data.custmer")
        assert await tocsin.metric("tocsin_alert_missing_columns_total", alert="failed", column="service.name") == 0
    assert [body["labels"] for body in bodies(receiver)] == [{"service": "shop"}] * 3


async def test_missing_column_is_logged_again_rarely(tmp_path: Path) -> None:
    """One line for the first event, one for the tenth, one for the hundredth."""
    async with Receiver() as receiver, running(tmp_path, config(receiver, labels=["team"], key=["host"])) as tocsin:
        await tocsin.until_ready()
        for start in range(0, 120, 5):
            await post(tocsin, *({"n": n} for n in range(start, start + 5)))
        await tocsin.until_metric("tocsin_alert_missing_columns_total", 120, alert="failed", column="team")
        assert len(tocsin.logged("lacks a column", "column=team")) == 3
        assert len(tocsin.logged("lacks a column", "column=host")) == 3
