"""`materialize/setup.py` as a process of its own, on the double: what it says to a server, and what it ends with."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from support.materialize import MaterializeDouble
from support.materialize.definitions import RETENTION, Defined
from support.scripts import ROOT
from support.stack_views import VIEWS


@pytest.fixture
async def double() -> AsyncIterator[MaterializeDouble]:
    """A server that nothing was put into yet."""
    async with MaterializeDouble() as made:
        Defined(made, VIEWS)
        yield made


async def started(double: MaterializeDouble, *more: str) -> asyncio.subprocess.Process:
    """A run that goes on."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "materialize/setup.py")),
        *("--dsn", double.dsn, "--system-dsn", double.dsn, *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def outcome(process: asyncio.subprocess.Process) -> tuple[int, list[str]]:
    """Exit code and lines of a run, but for those already read."""
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().splitlines()


async def setup(double: MaterializeDouble, *more: str) -> tuple[int, list[str]]:
    """Exit code and lines of a run."""
    return await outcome(await started(double, *more))


def summary(lines: list[str]) -> set[str]:
    """What a run did, in the words of its last line."""
    return {each.split()[1] for each in lines[-1].removeprefix("demo: ").split(", ")}


async def test_the_first_run_makes_the_views_and_the_second_leaves_them_alone(double: MaterializeDouble) -> None:
    code, lines = await setup(double)
    assert (code, summary(lines)) == (0, {"created", "changed", "granted"}), lines
    made = {name: double.relation(name) for name in VIEWS}
    assert {relation.retain for relation in made.values()} == {RETENTION}
    assert "alerting" in double.catalog.clusters

    code, lines = await setup(double)
    assert (code, summary(lines)) == (0, {"granted", "unchanged"}), lines
    assert {name: double.relation(name) for name in VIEWS} == made


async def test_two_runs_at_once_both_succeed_and_leave_nothing_to_do(double: MaterializeDouble) -> None:
    ended = await asyncio.gather(setup(double), setup(double))
    assert [code for code, _ in ended] == [0, 0], ended
    code, lines = await setup(double, "--check")
    assert code == 0, lines


async def test_two_runs_at_once_that_change_the_same_view_both_succeed(double: MaterializeDouble) -> None:
    assert (await setup(double))[0] == 0
    before = double.relation("demo.organization_alert")
    changed = ("--deployment-window", "3 minutes")
    ended = await asyncio.gather(setup(double, *changed), setup(double, *changed))
    assert [code for code, _ in ended] == [0, 0], ended
    assert double.relation("demo.organization_alert") is not before
    assert (await setup(double, "--check", *changed))[0] == 0


async def test_a_server_that_is_late_is_waited_for(double: MaterializeDouble) -> None:
    await double.kill()
    process = await started(double)
    assert process.stdout is not None
    assert b"waiting for Materialize" in await process.stdout.readline()
    await double.start()
    code, lines = await outcome(process)
    assert code == 0, lines
