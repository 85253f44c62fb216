"""Tocsin's assumptions about Materialize, checked on a running one (TOCSIN_TEST_MATERIALIZE_DSN).

The behaviour of the source is tested against it by tests/integration/source_materialize, which run with the
same variable. Here stand the facts that the double is built on and that a new version could change.
"""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.live import VARIABLE, Server, serving
from support.reading import error_of, reading
from support.tocsin import quick_source, running
from support.waiting import until_some
from tocsin.errors import SourceReason
from tocsin.sources.base import Subject
from tocsin.sources.materialize import Materialize

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
]

COLUMNS = (("id", "int4"), ("name", "text"))
ANN = ("1", "Ann")
BOB = ("2", "Bob")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving("live") as running_server:
        yield running_server


def source(server: Server) -> Materialize:
    return Materialize("mz", server.config())


async def test_change_arrives_within_a_second(server: Server) -> None:
    """Materialize sends a change when it is committed, not when a client asks."""
    view = await server.view("orders", COLUMNS, ANN)
    waits = []
    async with reading(source(server), view.name) as stream:
        await stream.next()
        for number in range(10):
            await view.insert((str(number), "more"))
            committed = time.perf_counter()
            await stream.until(lambda wanted=(str(number), "more"): wanted in stream.state)  # type: ignore[misc]
            waits.append(time.perf_counter() - committed)
    assert sorted(waits)[len(waits) // 2] < 1.0


async def test_row_expires_at_its_time(server: Server) -> None:
    """Temporal filters: `mz_now()` in a view retracts rows without any input."""
    view = await server.view("orders", (("id", "int4"), ("until", "mz_timestamp")))
    ends = int(time.time() * 1000) + 3_000
    query = Subject(query=f"SELECT id FROM {view.name} WHERE mz_now() < until")
    async with reading(source(server), query) as stream:
        await stream.next()
        await view.insert(("1", str(ends)))
        await stream.until_state(("1",))
        await stream.until_state()
        assert stream.updates[-1] == (ends, -1, ("1",))


async def test_history_is_kept_only_if_retained(server: Server) -> None:
    kept = await server.view("kept", COLUMNS, ANN)
    lost = await server.view("lost", COLUMNS, ANN, retain=False)
    async with reading(source(server), kept.name) as stream:
        await stream.next()
        frontier = stream.frontier
    await lost.forget(frontier + 2_000)
    async with reading(source(server), kept.name, resume=frontier - 1) as stream:
        assert (await stream.next()).snapshot == frontier - 1
    async with reading(source(server), lost.name, resume=frontier - 1) as stream:
        assert ((await stream.next()).snapshot or 0) > frontier - 1


async def test_unknown_cluster_fails_the_statement(server: Server) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    error = await error_of(Materialize("mz", server.config(cluster="nonesuch")), view.name)
    assert error.reason is SourceReason.MISSING
    assert "nonesuch" in str(error)


async def test_process_shows_and_prints_the_view(server: Server, tmp_path: Path) -> None:
    view = await server.view("orders", COLUMNS, ANN)
    config = {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": str(tmp_path / "ledger.db")},
        "sources": {"mz": quick_source(os.environ[VARIABLE])},
        "channels": {"screen": {"type": "console"}},
        "alerts": {
            "orders": {
                "source": "mz",
                "relation": view.name,
                "key": ["id"],
                "labels": ["id", "name"],
                "notify": ["screen"],
            }
        },
    }
    async with running(tmp_path, config) as tocsin:
        await tocsin.until_ready()
        await tocsin.until_metric("orders", 1.0, id="1", name="Ann")
        await view.delete(ANN)
        await view.insert(BOB)
        await tocsin.until_metric("orders", 1.0, id="2", name="Bob")

        async def printed() -> bool:
            text = "\n".join(tocsin.output)
            return "Ann" in text and "Bob" in text

        await until_some(printed)
        assert list(await tocsin.gauge("orders")) == [frozenset({("id", "2"), ("name", "Bob")})]
        assert await tocsin.stop() == 0
