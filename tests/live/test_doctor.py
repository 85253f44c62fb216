"""`tocsin doctor` on a running Materialize (TOCSIN_TEST_MATERIALIZE_DSN): history, an index that shortens it, clock."""

import os
from collections.abc import AsyncIterator

import pytest

from support.live import LiveServer, serving
from support.live_server import VARIABLE
from support.waiting import until_equal
from tocsin.config.loading import load_text
from tocsin.doctor import history, servers
from tocsin.doctor.findings import Finding, Severity

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
]

CONFIG = """
sources: {{mz: {{type: materialize, dsn: "{dsn}"}}}}
channels: {{out: {{type: console}}}}
alerts: {{late: {{source: mz, {subject}, key: [id], notify: [out]}}}}
"""


@pytest.fixture
async def server() -> AsyncIterator[LiveServer]:
    async with serving("live") as made:
        assert isinstance(made, LiveServer)
        await made.run(f"CREATE TABLE {made.schema}.t (id int)")
        await made.run(f"INSERT INTO {made.schema}.t VALUES (1)")
        yield made


async def found(server: LiveServer, subject: str, downtime: float) -> Finding:
    config = load_text(CONFIG.format(dsn=server.dsn, subject=subject), "tocsin.yaml", {})
    [one] = await history.reaches_back(config.row_alerts["late"], "alerts.late", server.config(), downtime)
    return one


async def make(server: LiveServer, view: str, retain: str = "") -> str:
    name = f"{server.schema}.{view}"
    await server.run(f"CREATE MATERIALIZED VIEW {name} {retain} AS SELECT id FROM {server.schema}.t")
    return name


async def test_view_without_history_names_the_statement(server: LiveServer) -> None:
    name = await make(server, "short")
    one = await found(server, f"relation: {name}", 3600.0)
    assert one.severity is Severity.WARNING
    statement = f"ALTER MATERIALIZED VIEW materialize.{name} SET (RETAIN HISTORY FOR '1 hour')"
    assert one.fix == statement
    await server.run(statement)
    one = await found(server, f"relation: {name}", 3600.0)
    assert (one.severity, "is kept for 1h or longer" in one.message) == (Severity.OK, True)


@pytest.mark.parametrize("subject", ["relation: {}", "query: SELECT * FROM {}"])
async def test_index_that_shortens_history_is_named(server: LiveServer, subject: str) -> None:
    """The view has enough, seen before the index is made."""
    name = await make(server, "indexed", "WITH (RETAIN HISTORY FOR '1 hour')")

    async def reaches_back() -> bool:
        return (await found(server, subject.format(name), 6.0)).severity is Severity.OK

    await until_equal(reaches_back, True, "the history is as long as the downtime")
    await server.run(f"CREATE INDEX indexed_idx ON {name} (id)")
    one = await found(server, subject.format(name), 6.0)
    assert one.severity is Severity.WARNING, one
    assert f"DROP INDEX materialize.{server.schema}.indexed_idx" in one.fix


async def test_inputs_of_plain_view_are_named(server: LiveServer) -> None:
    await server.run(f"CREATE VIEW {server.schema}.plain AS SELECT id FROM {server.schema}.t WHERE id > 0")
    one = await found(server, f"relation: {server.schema}.plain", 3600.0)
    assert one.severity is Severity.WARNING
    assert f"ALTER TABLE materialize.{server.schema}.t SET (RETAIN HISTORY FOR '1 hour')" in one.fix


async def test_constant_view_needs_no_history(server: LiveServer) -> None:
    await server.run(f"CREATE VIEW {server.schema}.constant AS SELECT 1 AS id")
    assert (await found(server, f"relation: {server.schema}.constant", 3600.0)).severity is Severity.OK


async def test_server_answers_with_version_and_clock(server: LiveServer) -> None:
    place = servers.Place(path="sources.mz", settings=server.config(), kind="materialize", max_ahead=60.0, direct="no")
    connection, clock = await servers.reached(place)
    assert (connection.severity, clock.severity) == (Severity.OK, Severity.OK)
    assert "Materialize v" in connection.message
