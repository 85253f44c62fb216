"""What an explanation asks of the running process."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from support.explaining import COLUMNS, alert, firing
from tocsin.app.runtime import Runtime
from tocsin.app.surroundings import RunningProcess
from tocsin.firing import Firing


async def test_rows_are_read_again_while_a_large_batch_is_applied() -> None:
    """A thread changes the firing set meanwhile, which ends the reading."""
    tries = 0

    def firings() -> Iterator[Firing]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("dictionary changed size during iteration")
        yield firing()

    pipeline = SimpleNamespace(columns=COLUMNS, frontier=5, firings=firings)
    inputs = SimpleNamespace(rows=lambda name: pipeline if name == "late" else None)
    runtime: Any = SimpleNamespace(inputs=inputs, ledger=None)
    around = RunningProcess(cast("Runtime", runtime))
    rows = await around.rows(alert())
    assert rows is not None
    assert (rows.frontier, rows.firings, tries) == (5, [firing()], 3)
    assert await around.rows(alert(name="other")) is None
