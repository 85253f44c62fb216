"""What people see of processes that share a ledger: `tocsin instances`, the API, readiness."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from support.postgres import Database
from support.tocsin import Harness, TocsinProcess, command, new_harness, write
from support.waiting import until_equal

pytestmark = pytest.mark.e2e


@pytest.fixture
def harness(shared: Harness) -> Harness:
    return shared


async def listed(harness: Harness) -> list[dict[str, Any]]:
    file = write(harness.directory / "tocsin.yaml", harness.config)
    status, output, errors = await command(harness.directory, "instances", "--json", "-c", str(file))
    assert (status, errors) == (0, "")
    return [json.loads(line) for line in output.splitlines()]


async def test_instances_lists_processes_and_what_they_lead(harness: Harness) -> None:
    """One alert, so the second process leads none. One that was killed is gone after its lease."""
    async with harness.run() as first:
        await first.until_ready()
        async with harness.run() as second:
            await second.until_ready()
            names = [f"process {one.pid} on {socket.gethostname()}" for one in (first, second)]
            found = await listed(harness)
            assert [(one["name"], one["address"], one["leads"]) for one in found] == [
                (names[0], first.url, ["orders"]),
                (names[1], second.url, []),
            ]
            status, output, _ = await command(harness.directory, "instances")
            assert status == 0
            assert output.splitlines()[0] == "process\taddress\tsince\tleads\talerts"
            assert re.fullmatch(rf"{names[0]}\t{first.url}\t20\S+Z\t1\torders", output.splitlines()[1])
        await first.kill()
    await until_equal(lambda: listed(harness), [], "what is left after the kill")
    status, output, _ = await command(harness.directory, "instances")
    assert (status, output.startswith("no process runs alerts on ")) == (0, True)


async def test_api_names_the_leader_of_each_alert(harness: Harness) -> None:
    """A process that leads none is ready, and knows who does."""

    async def leader(one: TocsinProcess) -> object:
        return (await one.json("/api/v1/alerts"))["alerts"][0]["leader"]

    async def instances(one: TocsinProcess) -> object:
        return {(each["address"], each["this"]) for each in (await one.json("/api/v1/instances"))["instances"]}

    async with harness.run() as first, harness.run() as second:
        for one in (first, second):
            await one.until_ready()
        [led] = [one for one in (first, second) if await one.metric("tocsin_instance_leads", alert="orders")]
        name = f"process {led.pid} on {socket.gethostname()}"
        for one in (first, second):
            await until_equal(lambda one=one: leader(one), {"name": name, "this": one is led}, "the leader")  # type: ignore[misc]
            expected = {(first.url, one is first), (second.url, one is second)}
            await until_equal(lambda one=one: instances(one), expected, "the processes")  # type: ignore[misc]
            leads = "This process leads orders." if one is led else f"{name} leads orders."
            assert leads in (await one.get("/readyz"))[1].splitlines()


async def test_process_on_every_interface_is_shown_by_host_name(harness: Harness) -> None:
    harness.config["web"] = {"listen": "0.0.0.0:0"}
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        [one] = await listed(harness)
        assert one["address"] == tocsin.url.replace("0.0.0.0", socket.gethostname())


async def test_process_alone_with_a_file_has_no_leader(tmp_path: Path) -> None:
    async with new_harness(tmp_path) as harness, harness.run() as tocsin:
        await tocsin.until_ready()
        assert (await tocsin.json("/api/v1/alerts"))["alerts"][0]["leader"] is None
        assert (await tocsin.json("/api/v1/instances"))["instances"] == []


async def test_unreachable_and_missing_ledgers_are_explained(tmp_path: Path, database: Database) -> None:
    async with new_harness(tmp_path) as harness:
        for ledger, words in (
            (harness.config["ledger"], "the ledger is the file "),
            ({"url": "postgresql://tocsin@127.0.0.1:1/alerts"}, "127.0.0.1"),
            ({"url": database.dsn}, "there is no ledger of this version in the schema tocsin; `tocsin run` makes it"),
        ):
            write(tmp_path / "tocsin.yaml", {**harness.config, "ledger": ledger})
            status, output, errors = await command(tmp_path, "instances")
            assert (status, output, words in errors, len(errors.splitlines())) == (3, "", True, 1), errors
