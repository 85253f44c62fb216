"""Rows of a view become notifications: start, restart, and outages of the source. Against the double of Materialize
and, where there is one, a live server; tests/acceptance.md has the list."""

import asyncio
import contextlib
from datetime import datetime
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.live import Server
from support.notifications import ART, BIKE, KEY, LONG, PIZZA, Scenario, new_scenario
from support.tcp_proxy import TcpProxy
from support.tocsin import command, running_with, start, write
from support.waiting import until
from tocsin.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KEPT_S = 15
"""History of a view, shorter than it stays quiet, and longer than a frontier may wait to be written plus a restart."""


# The start.


async def test_every_setting_subscribes_and_becomes_ready(scenario: Scenario) -> None:
    async with scenario.run_by_variables() as tocsin:
        assert (await tocsin.get("/healthz"))[0] == 200
        [alert] = (await tocsin.json("/api/v1/alerts"))["alerts"]
        assert alert["state"] == "up"


async def test_all_bad_settings_are_named_at_once(tmp_path: Path) -> None:
    given = {"NOVU_API_KEY": "k", "MTZ_USER": "u", "SEND_RETRACTIONS": "perhaps", "PROGRESS_TIMEOUT_MINUTES": "soon"}
    status, output, errors = await command(tmp_path, "run", TOCSIN_CONFIG="", **given)
    assert (status, output) == (2, "")
    missing = ("NOVU_WORKFLOW_NAME", "NOVU_RECIPIENTS", "MTZ_PASSWORD", "MTZ_HOST", "MTZ_ALERT_VIEW")
    for name in (*missing, "MTZ_PERSIST_TABLE", "MTZ_ALERT_PAYLOAD", "SEND_RETRACTIONS", "PROGRESS_TIMEOUT_MINUTES"):
        assert name in errors, name
    assert "Traceback" not in errors


@pytest.mark.parametrize("initial", ["notify", "silent"])
async def test_initial_rows_follow_the_setting(scenario: Scenario, initial: str) -> None:
    scenario.alert["initial"] = initial
    await scenario.view.insert(PIZZA)
    async with scenario.run() as tocsin:
        assert await tocsin.metric("sold", id="1", item="pizza") == 1
        await scenario.view.insert(BIKE)
        await scenario.until_notified(*([("fired", "pizza")] if initial == "notify" else []), ("fired", "bike"))


async def test_dry_run_leaves_everything_to_real_run(scenario: Scenario) -> None:
    scenario.alert["notify"] = ["hook", "novu"]
    await scenario.view.insert(PIZZA)
    file = write(scenario.folder / "tocsin.yaml", scenario.config)
    async with running_with(scenario.folder, "--dry-run", "--config", str(file)) as tocsin:
        await until(lambda: sum("pizza" in line for line in tocsin.output) == 2, "printed for both channels", LONG)
        assert await tocsin.stop() == 0
    assert not scenario.inbox.core.requests
    assert not scenario.folder.joinpath("ledger.db").exists()
    async with scenario.run():
        await scenario.until_notified(("fired", "pizza"))
        await scenario.until_messages(1)


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


# Names, addresses and secrets.


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


async def test_server_without_tls_is_reached_by_settings(scenario: Scenario) -> None:
    parts = conninfo_to_dict(scenario.server.dsn)
    if parts.get("sslmode") not in {None, "disable", "prefer"}:
        pytest.skip("the server wants TLS")
    async with TcpProxy(str(parts["host"]), int(parts.get("port") or 6875)) as proxy:
        elsewhere = {"MTZ_HOST": "127.0.0.1", "MTZ_PORT": str(proxy.port), "MTZ_SSLMODE": "disable"}
        async with scenario.run_by_variables(**elsewhere):
            await scenario.view.insert(PIZZA)
            await scenario.until_messages(1)


async def test_log_has_configured_output_and_level_without_rows(scenario: Scenario) -> None:
    async with scenario.run_by_variables(LOG_LEVEL="INFO", LOG_OUTPUT="stdout") as tocsin:
        await scenario.view.insert(("1", "a-row-of-a-customer", "4711.25", None))
        await scenario.until_messages(1)
        assert await tocsin.stop() == 0
    text = "\n".join(tocsin.output)
    assert tocsin.log == []
    assert "level=info event=running" in text
    for never in ("a-row-of-a-customer", "4711.25", KEY, "not-asked-for"):
        assert never not in text, never
    file = scenario.folder / "quiet.log"
    quiet = scenario.variables(LOG_LEVEL="ERROR", LOG_OUTPUT=str(file), MTZ_PERSIST_TABLE="another")
    process = await start(scenario.folder, "run", **quiet)
    try:
        await until(scenario.folder.joinpath("another.db").exists, "a ledger", LONG)
        process.terminate()
        async with asyncio.timeout(LONG):
            output, errors = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert (process.returncode, output, errors, file.read_bytes()) == (0, b"", b"", b"")
