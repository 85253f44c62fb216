"""A run of the live tests says which server it met."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from support.live_server import VARIABLE
from support.materialize import RELEASES, MaterializeDouble

TESTS = Path(__file__).parents[1]


async def run(**environment: str) -> str:
    """The output of a quiet run that collects one live test and runs none."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-n0", "--collect-only", str(TESTS / "live/test_materialize_names.py")),
        cwd=TESTS.parent,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@pytest.mark.parametrize("release", RELEASES)
async def test_version_is_printed_by_a_quiet_run(release: str) -> None:
    async with MaterializeDouble(release=release) as double:
        assert f"live tests: Materialize {release}.0-dev.0" in await run(**{VARIABLE: double.dsn})


async def test_server_that_is_gone_is_said() -> None:
    assert "live tests: Materialize cannot be asked: " in await run(**{VARIABLE: "host=127.0.0.1 port=1"})
