"""The SQL and the configurations of docs/sources as they are printed, on a live Materialize and a live broker. Only
addresses are other ones, and names that no one else has."""

import os
import re
import secrets
from asyncio import to_thread
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from live.model import INNER_KAFKA, KAFKA, delete_topic, until_gauge
from support.live_server import VARIABLE
from support.notifications import LONG
from support.tocsin import running

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no server"),
    pytest.mark.timeout(420),
]

SOURCES = Path(__file__).parents[2] / "docs" / "sources"
NAMES = ("accounts", "alerting", "broker", "dbt", "demo", "overdrawn", "overdrawn_sink", "tocsin")
"""Names of objects and topics in the SQL of the pages."""
_NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")


class Pages:
    """The pages for one server. `own`: what `NAMES` are there."""

    def __init__(self) -> None:
        self.own = {name: f"{name}_{secrets.token_hex(4)}" for name in NAMES}
        self._dsn = os.environ[VARIABLE]
        self._connection = self._connect()

    def sql(self, page: str) -> list[str]:
        """The statements of a page."""
        blocks = re.findall(r"^ *```sql\n(.*?)^ *```", self._text(page), re.DOTALL | re.MULTILINE)
        return [one.strip() for block in blocks for one in block.split(";\n") if one.strip()]

    def configuration(self, page: str, source: str, **connection: Any) -> dict[str, Any]:
        """The configuration of a page that has such a source, with another `connection`."""
        blocks = re.findall(r"^```yaml\n(.*?)^```", self._text(page), re.DOTALL | re.MULTILINE)
        [config] = [one for one in map(yaml.safe_load, map(self._named, blocks)) if source in one.get("sources", {})]
        kept = {name: value for name, value in config["sources"][source].items() if name not in ADDRESS}
        return {**config, "web": {"listen": "127.0.0.1:0"}, "sources": {source: kept | connection}}

    def run(self, *statements: str, role: str = "") -> list[Any]:
        """Run statements in the names of this server, and return the rows of the last one."""
        connection = self._connect(user=self.own[role]) if role else self._connection
        cursor = None
        for statement in statements:
            cursor = connection.execute(self._named(statement).encode())
        if role:
            connection.close()
        return cursor.fetchall() if cursor is not None and cursor.description else []

    def dsn(self, role: str) -> str:
        return make_conninfo(self._dsn, user=self.own[role])

    def close(self) -> None:
        """Drop what there is."""
        for statement in (
            "DROP CLUSTER IF EXISTS alerting CASCADE",
            "DROP SCHEMA IF EXISTS demo CASCADE",
            "DROP OWNED BY dbt, tocsin CASCADE",
            "DROP ROLE IF EXISTS dbt",
            "DROP ROLE IF EXISTS tocsin",
        ):
            with suppress(psycopg.Error):
                self.run(statement)
        self._connection.close()

    def _connect(self, **more: str) -> psycopg.Connection[Any]:
        return psycopg.connect(make_conninfo(self._dsn, **more), autocommit=True, prepare_threshold=None)

    def _named(self, text: str) -> str:
        return _NAME.sub(lambda found: self.own[found[1]], text)

    @staticmethod
    def _text(page: str) -> str:
        return (SOURCES / page).read_text(encoding="utf-8")


ADDRESS = ("bootstrap_servers", "host", "user", "password_file")
"""Settings of the pages that other ones replace."""


@pytest.fixture
def pages() -> Iterator[Pages]:
    """With a cluster, a schema, and the right to keep history."""
    made = Pages()
    dsn = os.environ[VARIABLE]
    system = make_conninfo(dsn, user="mz_system", port=int(conninfo_to_dict(dsn).get("port") or 6875) + 2)
    with psycopg.connect(system, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET enable_logical_compaction_window = true")
    [(size,)] = made.run("SELECT size FROM mz_catalog.mz_clusters WHERE name = 'quickstart'")
    made.run(f"CREATE CLUSTER alerting (SIZE = '{size}')", "CREATE SCHEMA demo", "SET schema = demo")
    try:
        yield made
    finally:
        made.close()


async def test_view_of_the_page_is_followed(pages: Pages, tmp_path: Path) -> None:
    """Also after it was dropped and created again: the role may read what another role creates."""
    view = "CREATE MATERIALIZED VIEW demo.organization_alert IN CLUSTER alerting AS SELECT * FROM demo.deployments"
    pages.run(
        "CREATE TABLE demo.deployments (organization text, severity text, deployment_cnt int)",
        "INSERT INTO demo.deployments VALUES ('acme', 'page', 7)",
        view,
        "CREATE ROLE dbt",
        "GRANT dbt TO materialize",
        "GRANT USAGE, CREATE ON SCHEMA demo TO dbt",
        "GRANT USAGE, CREATE ON CLUSTER alerting TO dbt",
        "GRANT SELECT ON demo.deployments TO dbt",
    )
    await to_thread(pages.run, *pages.sql("materialize.md"), *pages.sql("dbt.md"))
    config = pages.configuration("materialize.md", "warehouse", dsn=pages.dsn("tocsin"))
    async with running(tmp_path, config) as tocsin:
        await until_gauge(tocsin, "deployment_spike", 7, LONG, organization="acme")
        await to_thread(pages.run, "DROP MATERIALIZED VIEW demo.organization_alert")
        await to_thread(pages.run, "INSERT INTO demo.deployments VALUES ('bolt', 'page', 8)")
        await to_thread(pages.run, view, role="dbt")
        await until_gauge(tocsin, "deployment_spike", 8, LONG, organization="bolt")


@pytest.mark.skipif(not KAFKA, reason="needs TOCSIN_TEST_KAFKA")
async def test_sink_of_the_page_is_read(pages: Pages, tmp_path: Path) -> None:
    """Rows fire, and resolve by the sink's tombstones."""
    topic = f"{pages.own['accounts']}.{pages.own['overdrawn']}"
    try:
        await to_thread(
            pages.run,
            "CREATE TABLE balances (account text, balance numeric)",
            "INSERT INTO balances VALUES ('17', -3.5), ('18', -1), ('19', 4)",
            "CREATE MATERIALIZED VIEW overdrawn IN CLUSTER alerting AS SELECT * FROM balances WHERE balance < 0",
            f"CREATE CONNECTION broker TO KAFKA (BROKER '{INNER_KAFKA}', SECURITY PROTOCOL PLAINTEXT)",
            *pages.sql("kafka.md"),
        )
        config = pages.configuration("kafka.md", "balances", bootstrap_servers=[KAFKA])
        async with running(tmp_path, config) as tocsin:
            alert = pages.own["overdrawn"]
            await until_gauge(tocsin, alert, -3.5, LONG, account="17")
            await until_gauge(tocsin, alert, -1, LONG, account="18")
            await to_thread(pages.run, "DELETE FROM balances WHERE account = '18'")
            await until_gauge(tocsin, alert, None, LONG, account="18")
            await until_gauge(tocsin, alert, -3.5, LONG, account="17")
    finally:
        delete_topic(topic)
