"""Rows of a view become notifications: content, recipients, cancellation, resume point and silence. The whole process,
against the double of Materialize and, where there is one, a live server; tests/acceptance.md has the list."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.live import Server
from support.notifications import ART, BIKE, LONG, PIZZA, Scenario, new_scenario
from support.tcp_proxy import TcpProxy
from support.waiting import until
from tocsin.cli import main
from tocsin_demo.inbox.model import Step

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KEPT_S = 15
"""History of a view, shorter than it stays quiet, and longer than a frontier may wait to be written plus a restart."""


# Recipients.


async def test_configured_novu_gets_alert_with_key(scenario: Scenario) -> None:
    async with scenario.run_by_variables() as tocsin:
        [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
        assert alert["state"] == "up"
        await scenario.view.insert(PIZZA)
        await scenario.until_messages(1)
    assert [each.status for each in scenario.inbox.triggers()] == [201]  # it lets no other key in


async def test_recipients_of_settings_and_row_get_one_each(server: Server, tmp_path: Path) -> None:
    columns = (("id", "int4"), ("item", "text"), ("people", "text[]"))
    async with new_scenario(tmp_path, server, columns=columns) as scenario:
        named = {"NOVU_RECIPIENTS": " a, b ", "RECIPIENTS_IN_PAYLOAD": "people", "MTZ_ALERT_PAYLOAD": "item, people"}
        async with scenario.run_by_variables(**named):
            await scenario.view.insert(("1", "pizza", "{b,c,b}"))
            await scenario.until_messages(3)
        assert sorted(each.subscriber_id for each in scenario.inbox.messages()) == ["a", "b", "c"]


# What.


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


async def test_resolved_row_is_cancelled_once_if_configured(scenario: Scenario) -> None:
    waiting = (Step(type="delay", seconds=60), Step(type="in_app"))
    scenario.inbox.core.engine.add_workflow("sold", now=0, steps=waiting)
    sent = scenario.inbox.core.engine.worker.notifications

    def state() -> list[str]:
        return [each.state for each in sent.values()]

    async with scenario.run_by_variables(SEND_RETRACTIONS="True"):
        await scenario.view.insert(PIZZA)
        await until(lambda: state() == ["waiting"], "the delay of the workflow", LONG)
        await scenario.view.delete(PIZZA)
        await until(lambda: state() == ["cancelled"], "taken back", LONG)
    assert len(scenario.inbox.triggers()) == 1
    [transaction] = [each.transaction_id for each in sent.values()]
    assert [each.path.rpartition("/")[2] for each in scenario.inbox.cancels()] == [transaction]


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


# The start.


async def test_initial_rows_can_be_silent(scenario: Scenario) -> None:
    scenario.alert["initial"] = "silent"
    await scenario.view.insert(PIZZA)
    async with scenario.run() as tocsin:
        assert await tocsin.metric("sold", id="1", item="pizza") == 1
        await scenario.view.insert(BIKE)
        await scenario.until_notified(("fired", "bike"))


# The resume point.


async def test_restart_after_long_quiet_misses_nothing(server: Server, tmp_path: Path) -> None:
    """Catches a resume point that moves only with a notification."""
    async with new_scenario(tmp_path, server, retain=KEPT_S) as scenario:
        await scenario.view.insert(PIZZA)
        async with scenario.run() as tocsin:
            await scenario.until_notified(("fired", "pizza"))
            [firing] = (await tocsin.json("/api/v1/firing"))["firing"]
            await scenario.view.forget(milliseconds(firing["started_at"]))
            await tocsin.kill()
        await scenario.view.insert(ART)
        await scenario.view.delete(ART)
        async with scenario.run() as tocsin:
            await scenario.until_notified(("fired", "pizza"), ("fired", "art"), ("resolved", "art"))
            assert await tocsin.metric("tocsin_alert_gaps_total", alert="sold") == 0


async def test_lost_history_is_counted_and_compared(server: Server, tmp_path: Path) -> None:
    async with new_scenario(tmp_path, server, PIZZA, retain=False) as scenario:
        async with scenario.run() as tocsin:
            await scenario.until_notified(("fired", "pizza"))
            frontier = await tocsin.metric("tocsin_alert_frontier_timestamp_seconds", alert="sold")
            assert frontier is not None
            await tocsin.kill()
        await scenario.view.delete(PIZZA)
        await scenario.view.insert(BIKE)
        await scenario.view.forget(int(frontier * 1000) + 2_000)
        async with scenario.run() as tocsin:
            await scenario.until_notified(("fired", "pizza"), ("resolved", "pizza"), ("fired", "bike"))
            assert await tocsin.metric("tocsin_alert_gaps_total", alert="sold") == 1
            assert tocsin.logged("level=warning", "history does not reach back", "alert=sold")


def milliseconds(text: str) -> int:
    """A time of the API on the source's clock."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


# Silence.


async def test_silent_server_ends_process_with_124(scenario: Scenario) -> None:
    """The connection stays open without data and without an error."""
    parts = conninfo_to_dict(scenario.server.dsn)
    async with TcpProxy(str(parts["host"]), int(parts.get("port") or 6875)) as proxy:
        dsn = make_conninfo(scenario.server.dsn, host="127.0.0.1", port=proxy.port)
        source = scenario.config["sources"]["mz"]
        source.update(dsn=dsn, progress_timeout="4s", snapshot_timeout="60s")
        async with scenario.run() as tocsin:
            proxy.hold()
            await tocsin.until_not_ready("alert sold", "no progress row for 4 s")
        proxy.release()
        source["on_stall"] = "exit"
        async with scenario.run() as tocsin:
            proxy.hold()
            async with asyncio.timeout(LONG):
                assert await tocsin.exited() == 124
        proxy.release()
        source.update(progress_timeout="10s", on_stall="reconnect")
        async with scenario.run():
            await scenario.view.insert(PIZZA)
            await scenario.until_notified(("fired", "pizza"))


# Names.


async def test_odd_names_are_only_names(server: Server, tmp_path: Path) -> None:
    columns = (("Item; Name", "text"), ('an"ount', "text"))
    view = await server.view('"Odd ""View""; DROP"', columns)
    async with new_scenario(tmp_path, server) as scenario:
        payload = {"MTZ_ALERT_VIEW": view.name, "MTZ_ALERT_PAYLOAD": '"Item; Name","an""ount"'}
        async with scenario.run_by_variables(**payload):
            await view.insert(("pizza", "1"))
            await scenario.until_messages(1)
        assert [each.payload for each in scenario.inbox.messages()] == [{"Item; Name": "pizza", 'an"ount': "1"}]


@pytest.mark.parametrize("name", ["sold; DROP TABLE x", "sold where true", 'so"ld', "a.b.c.d"])
def test_invalid_name_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    variables = {"NOVU_API_KEY": "k", "NOVU_WORKFLOW_NAME": "w", "NOVU_RECIPIENTS": "a", "MTZ_USER": "u"}
    variables |= {"MTZ_PASSWORD": "p", "MTZ_HOST": "h", "MTZ_PERSIST_TABLE": "t", "MTZ_ALERT_PAYLOAD": "item"}
    for variable, value in (variables | {"TOCSIN_CONFIG": "", "MTZ_ALERT_VIEW": name}).items():
        monkeypatch.setenv(variable, value)
    assert main(["run"]) == 2
    assert "MTZ_ALERT_VIEW" in capsys.readouterr().err
