"""A recording of Tocsin on a running Materialize (TOCSIN_TEST_MATERIALIZE_DSN), and its replay."""

import os
from pathlib import Path

import pytest

from support.live import LiveServer, serving
from support.live_server import VARIABLE
from support.receiver import Receiver
from support.recording import TOKEN, recorded, recording, replayed, sent
from support.tocsin import running
from tocsin.recording.lines import Rows

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
]


def gone(id_: str, seen: Rows) -> bool:
    """Whether a row with this id leaves in the batch."""
    return any(diff < 0 and row[0] == id_ for _, diff, row in seen.batch.updates)


async def test_replay_notifies_what_the_live_run_did(tmp_path: Path) -> None:
    """With the times of Materialize, so with the same ids."""
    async with serving("live") as server, Receiver() as receiver:
        assert isinstance(server, LiveServer)
        name = f"{server.schema}.late"
        await server.run(f"CREATE TABLE {server.schema}.orders (id int, customer text)")
        await server.run(f"INSERT INTO {server.schema}.orders VALUES (1, 'Ann'), (2, 'Bob')")
        retained = "WITH (RETAIN HISTORY FOR '1 hour')"
        await server.run(f"CREATE MATERIALIZED VIEW {name} {retained} AS SELECT * FROM {server.schema}.orders")
        whole = {
            "web": {"listen": "127.0.0.1:0", "tokens": {"all": {"token": TOKEN}}},
            "ledger": {"path": "ledger.db"},
            "sources": {"mz": {"type": "materialize", "dsn": server.dsn}},
            "channels": {"team": {"type": "webhook", "url": f"{receiver.url}/team"}},
            "alerts": {"late": {"source": "mz", "relation": name, "key": ["id"], "notify": ["team"]}},
        }
        file = tmp_path / "night.gz"
        async with running(tmp_path, whole) as tocsin:
            await receiver.arrived(2)
            async with recording(tocsin, file):
                for number, statement in enumerate(
                    (
                        "INSERT INTO {}.orders VALUES (3, 'Cyd')",
                        "UPDATE {}.orders SET customer = 'Bobby' WHERE id = 2",
                        "DELETE FROM {}.orders WHERE id = 1",
                    ),
                    start=3,
                ):
                    await server.run(statement.format(server.schema))
                    await receiver.arrived(number)
                await recorded(file, lambda item: isinstance(item, Rows) and gone("1", item))
        live = sent(receiver.requests[2:])
        assert [kind for _, kind, _ in live] == ["fired", "updated", "resolved"]
        assert await replayed(tmp_path, whole, file) == live
