"""Rows of a view become notifications: content, recipients, cancellation and ids. The whole process, against the double
of Materialize and, where there is one, a live server; tests/acceptance.md has the list."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.live import Server
from support.notifications import ART, BIKE, LONG, PIZZA, Scenario, new_scenario, until_settled
from support.receiver import Answer, Receiver, of_json
from support.tocsin import quick_channel
from support.waiting import until, until_some
from tocsin_demo.inbox.model import Step

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


# Recipients.


async def test_configured_novu_gets_alert_with_key(scenario: Scenario) -> None:
    async with scenario.run_by_variables():
        await scenario.view.insert(PIZZA)
        await scenario.until_messages(1)
    assert [each.status for each in scenario.inbox.triggers()] == [201]  # it lets no other key in


@pytest.mark.parametrize(("kind", "people"), [("text", " b, c,b "), ("text[]", "{b,c}")])
async def test_recipients_of_settings_and_row_get_one_each(
    server: Server, tmp_path: Path, kind: str, people: str
) -> None:
    columns = (("id", "int4"), ("item", "text"), ("people", kind))
    async with new_scenario(tmp_path, server, columns=columns) as scenario:
        named = {"NOVU_RECIPIENTS": " a, b ", "RECIPIENTS_IN_PAYLOAD": "people", "MTZ_ALERT_PAYLOAD": "item, people"}
        async with scenario.run_by_variables(**named):
            await scenario.view.insert(("1", "pizza", people))
            await scenario.until_messages(3)
        assert sorted(each.subscriber_id for each in scenario.inbox.messages()) == ["a", "b", "c"]


async def test_alert_without_recipient_becomes_dead_letter(scenario: Scenario) -> None:
    scenario.novu["recipients"] = [{"column": "people"}]
    scenario.alert["notify"] = ["novu"]
    async with scenario.run() as tocsin:
        await scenario.view.insert(PIZZA)
        await until_some(lambda: tocsin.metric("tocsin_channel_dead_letters", channel="novu"), within=LONG)
        [letter] = (await tocsin.json("/api/v1/dead-letters"))["notifications"]
        assert letter["reason"] == "no_recipients"
        assert letter["detail"]
        await scenario.view.insert(("2", "art", "7", "cyd"))
        await scenario.until_messages(1)
    assert [each.subscriber_id for each in scenario.inbox.messages()] == ["cyd"]


# What.


async def test_payload_has_exactly_the_configured_columns(scenario: Scenario) -> None:
    async with scenario.run_by_variables(MTZ_ALERT_PAYLOAD=" item , amount "):
        await scenario.view.insert(PIZZA)
        await scenario.until_messages(1)
    assert [each.payload for each in scenario.inbox.messages()] == [{"item": "pizza", "amount": "90.5"}]


async def test_every_column_type_has_stable_json(server: Server, tmp_path: Path) -> None:
    columns = (
        ("id", "int4"),
        ("price", "numeric"),
        ("sold_at", "timestamptz"),
        ("code", "uuid"),
        ("more", "jsonb"),
        ("tags", "text[]"),
        ("nothing", "text"),
    )
    code = "0f8fad5b-d9cb-469f-a165-70867728950e"
    row = ("90.5", "2026-01-02 03:04:05.678901+00", code, '{"a":[1,null]}', '{b,"c d"}', None)
    names = ",".join(name for name, _ in columns[1:])
    async with new_scenario(tmp_path, server, columns=columns) as scenario:
        async with scenario.run_by_variables(MTZ_ALERT_PAYLOAD=f"id,{names}"):
            await scenario.view.insert(("1", *row))
            await scenario.until_messages(1)
            await scenario.view.insert(("2", *row))
            await scenario.until_messages(2)
        first, second = ({**each.payload, "id": 0} for each in scenario.inbox.messages())
    expected: dict[str, Any] = {
        "id": 0,
        "price": "90.5",
        "sold_at": "2026-01-02T03:04:05.678901Z",
        "code": code,
        "more": {"a": [1, None]},
        "tags": ["b", "c d"],
        "nothing": None,
    }
    assert first == expected
    assert list(first.items()) == list(second.items())


# When a row goes.


@pytest.mark.parametrize("retractions", [True, False])
async def test_resolved_row_is_cancelled_once_if_configured(scenario: Scenario, retractions: bool) -> None:
    """Otherwise nothing is sent."""
    waiting = (Step(type="delay", seconds=60), Step(type="in_app"))
    scenario.inbox.core.engine.add_workflow("sold", now=0, steps=waiting)
    sent = scenario.inbox.core.engine.worker.notifications

    def state() -> list[str]:
        return [each.state for each in sent.values()]

    async with scenario.run_by_variables(SEND_RETRACTIONS=str(retractions)) as tocsin:
        await scenario.view.insert(PIZZA)
        await until(lambda: state() == ["waiting"], "the delay of the workflow", LONG)
        await scenario.view.delete(PIZZA)
        await until_settled(tocsin, "novu", transitions=2)
        if retractions:
            await until(lambda: state() == ["cancelled"], "taken back", LONG)
        assert await tocsin.stop() == 0
    assert state() == (["cancelled"] if retractions else ["waiting"])
    assert len(scenario.inbox.triggers()) == 1
    [transaction] = [each.transaction_id for each in sent.values()]
    cancelled = [each.path.rpartition("/")[2] for each in scenario.inbox.cancels()]
    assert cancelled == ([transaction] if retractions else [])


# Copies and changes.


async def test_three_equal_rows_are_one_firing(scenario: Scenario) -> None:
    """The alert sees one column, in which the three are equal: +3, -2, -1. The bike comes after the -2, so its
    notification shows that the -2 has been processed."""
    del scenario.alert["relation"]
    scenario.alert.update(query=f"SELECT item FROM {scenario.view.name}", key=["item"], labels=["item"])
    same = [(str(number), "pizza", "1", None) for number in (11, 12, 13)]
    async with scenario.run() as tocsin:
        await scenario.view.insert(*same)
        await scenario.until_notified(("fired", "pizza"))
        await scenario.view.delete(*same[:2])
        await scenario.view.insert(BIKE)
        await scenario.until_notified(("fired", "pizza"), ("fired", "bike"))
        assert await tocsin.metric("sold", item="pizza") == 1
        await scenario.view.delete(same[2])
        await scenario.until_notified(("fired", "pizza"), ("fired", "bike"), ("resolved", "pizza"))


async def test_changed_row_is_one_update(scenario: Scenario) -> None:
    async with scenario.run():
        await scenario.view.insert(PIZZA)
        await scenario.until_notified(("fired", "pizza"))
        await scenario.view.update(PIZZA, ("1", "pizza", "95", None))
        await scenario.view.insert(BIKE)
        await scenario.until_notified(("fired", "pizza"), ("updated", "pizza"), ("fired", "bike"))


# Under which id.


async def test_row_that_fires_again_has_new_id(scenario: Scenario) -> None:
    async with scenario.run():
        await scenario.view.insert(PIZZA)
        await scenario.until_notified(("fired", "pizza"))
        await scenario.view.delete(PIZZA)
        await scenario.until_notified(("fired", "pizza"), ("resolved", "pizza"))
        await scenario.view.insert(PIZZA)
        await scenario.until_notified(*[("fired", "pizza"), ("resolved", "pizza")], ("fired", "pizza"))
    bodies = list(scenario.inbox.delivered("hook"))
    assert len({body["fingerprint"] for body in bodies}) == 1


async def test_delivery_after_crash_keeps_its_id(scenario: Scenario) -> None:
    async with scenario.run() as tocsin:
        await scenario.inbox.close()
        await scenario.view.insert(PIZZA)
        await until_some(lambda: tocsin.metric("tocsin_channel_pending", channel="hook"), "pending", LONG)
        [before] = (await tocsin.json("/api/v1/notifications?status=pending"))["notifications"]
        await tocsin.kill()
    await scenario.inbox.open()
    async with scenario.run():
        await scenario.until_notified(("fired", "pizza"))
    assert [body["id"] for body in scenario.inbox.delivered("hook")] == [before["id"]]


async def test_batch_arrives_despite_kill_after_first_row(scenario: Scenario) -> None:
    """One at a time: the first is accepted, the second hangs when the process is killed, the third was never tried."""
    async with Receiver(lambda _: Answer(hang=True)) as receiver:
        receiver.script(Answer())
        scenario.config["channels"]["hook"] = quick_channel(f"{receiver.url}/hook", concurrency=1, timeout="60s")
        async with scenario.run() as tocsin:
            await scenario.view.insert(PIZZA, ART, BIKE)
            async with asyncio.timeout(LONG):
                await receiver.arrived(2)
            await tocsin.kill()
        receiver.otherwise = lambda _: Answer()
        async with scenario.run():
            await until(lambda: len({each.json["id"] for each in receiver.requests}) == 3, "three ids", LONG)
    assert len({each.json["at"] for each in receiver.requests}) == 1
    assert sorted({each.json["row"]["item"] for each in receiver.requests}) == ["art", "bike", "pizza"]


# Answers of the receiver.


async def test_retry_after_is_honoured_and_refusal_is_dead(scenario: Scenario) -> None:
    """Three rows in sequence: one refused, one retried twice, one accepted."""
    async with Receiver() as receiver:
        scenario.config["channels"]["hook"] = quick_channel(f"{receiver.url}/hook", concurrency=1)
        async with scenario.run() as tocsin:
            receiver.script(of_json(400, {"message": "no such thing"}))
            await scenario.view.insert(PIZZA)
            await until_some(
                lambda: tocsin.metric("tocsin_channel_dead_letters", channel="hook"), "a dead letter", LONG
            )
            receiver.script(Answer(status=429, headers={"retry-after": "1"}), Answer(status=503))
            await scenario.view.insert(ART)
            async with asyncio.timeout(LONG):
                await receiver.arrived(4)
            await scenario.view.insert(BIKE)
            async with asyncio.timeout(LONG):
                await receiver.arrived(5)
            await until_settled(tocsin, "hook", transitions=3)
            assert await tocsin.metric("tocsin_channel_failures_total", channel="hook", reason="rate_limited") == 1
            assert await tocsin.metric("tocsin_channel_delivered_total", channel="hook") == 2
            [letter] = (await tocsin.json("/api/v1/dead-letters"))["notifications"]
            assert "400" in letter["detail"]
    assert [each.json["row"]["item"] for each in receiver.requests] == ["pizza", "art", "art", "art", "bike"]
