"""How the ids in a plan are read, and which changes of them mean that a subscription reads something else."""

import asyncio
import json
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest
from psycopg import sql

from tocsin.errors import SourceError, SourceReason
from tocsin.model import Row
from tocsin.sources.identity import Identity, IdentityCheck, Subscription, object_ids, rounds_per_read
from tocsin.sources.settings import MaterializeConfig
from tocsin.sources.wire import Wire

HOME = '{"name": "quickstart"}'


class Catalog:
    """The objects that names refer to. `there`: the ids of other objects that exist."""

    def __init__(self, *objects: str, there: Sequence[str] = ()) -> None:
        self.objects = objects
        self.there = {*objects, *there}

    async def query(self, statement: sql.Composable) -> list[Row]:
        text = statement.as_string(None)
        if "INSIGHTS" in text:
            return [(json.dumps({"cluster": json.loads(HOME)}),)]
        asked = re.search(r"\[(\w+) AS", text)
        if asked is not None and asked[1] not in self.there:
            raise NoSuchId
        ids = [asked[1]] if asked else self.objects
        return [(json.dumps([{"Global": {"User": int(one[1:])}} for one in ids]),)]


class NoSuchId(psycopg.DatabaseError):
    diag = SimpleNamespace(message_primary="invalid id u1")  # type: ignore[assignment]


async def verdicts(known: Identity | None, *rounds: Catalog) -> list[str]:
    """The result of each round of checks: empty, or why the subscription ends."""
    ended: list[SourceError] = []
    subscription = Subscription(target=sql.SQL("v"), known=known, interrupt=ended.append)
    results = []
    for catalog in rounds:
        ended.clear()
        await subscription.check(catalog.query, "mz")
        assert all(error.reason is SourceReason.REPLACED and error.history for error in ended)
        results.append(str(ended[0]) if ended else "")
    return results


def test_plan_names_objects_in_order() -> None:
    """A join of two views, one of them twice; numbers elsewhere in a plan are no ids."""

    def get(kind: str, number: int) -> object:
        return {"Get": {"id": {"Global": {kind: number}}, "typ": {"column_types": [], "keys": [[0]]}}}

    plan = {
        "Join": {
            "left": {"Filter": {"input": get("User", 7), "predicates": [{"Literal": [{"data": [44]}, None]}]}},
            "right": {"Union": {"base": get("User", 5), "inputs": [get("System", 3), get("User", 7)]}},
        }
    }
    assert list(object_ids(plan)) == ["u7", "u5", "s3", "u7"]
    assert list(object_ids({"Get": {"id": {"Local": 1}}})) == []


async def test_id_that_is_gone_is_an_applied_replacement() -> None:
    """Also the second one, and a swap after both is detected."""
    rounds = Catalog("u1"), Catalog("u3"), Catalog("u5"), Catalog("u6", there=["u5"])
    *quiet, last = await verdicts(Identity(("u1",), HOME), *rounds)
    assert quiet == ["", "", ""]
    assert "another object" in last


async def test_id_of_table_version_counts_as_swap() -> None:
    """A plan may name a version of a table, whose id has no object: then a change counts as a swap."""
    table = Catalog("u7")
    table.there.clear()
    assert (await verdicts(Identity(("u7",), HOME), table, Catalog("u8")))[0] == ""
    assert "another object" in (await verdicts(Identity(("u7",), HOME), table, Catalog("u8")))[1]


@pytest.mark.parametrize("interval", [0.005, 0.9, 1.0, 2.0, 7.0, 30.0, 45.0, 3600.0])
def test_privileges_are_checked_within_thirty_seconds(interval: float) -> None:
    """Or with each check of the names, if these are rarer."""
    seconds = interval * rounds_per_read(interval)
    assert seconds <= 30 or seconds == interval


async def test_check_ends_that_is_stopped_as_a_subscription_begins() -> None:
    """Both in the same round of the event loop, where `asyncio.wait_for` of Python 3.11 loses the cancellation."""
    config = MaterializeConfig.model_validate({"dsn": "postgresql://u@127.0.0.1:1/d"})
    checks = IdentityCheck("mz", config)
    waiting = asyncio.create_task(checks._check_new(cast("Wire", None), 60.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    checks._new.put_nowait(Subscription(target=sql.SQL("v"), known=None, interrupt=lambda _: None))
    waiting.cancel()
    await asyncio.wait([waiting], timeout=5)
    assert waiting.cancelled()
