"""Configurations of query-exporter and both sql_exporters: translated, they have the series that the real exporters had
on the same tables. `tests/recordings/peers` has the configurations, the tables and the pages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from support.postgres import Database, Postgres
from support.tocsin import Series, running, series
from tocsin.cli import main
from tocsin.config.loading import load_text

PEERS = Path(__file__).parents[1] / "recordings" / "peers"
ARCHIVED = "DELETE FROM orders WHERE country = 'fr'; UPDATE queues SET waiting = 1"


@asynccontextmanager
async def shop_and_archive(server: Postgres) -> AsyncIterator[tuple[Database, Database]]:
    schema = (PEERS / "schema.sql").read_text()
    async with server.database() as shop, server.database() as archive:
        for database in (shop, archive):
            await database.run(schema)
        await archive.run(ARCHIVED)
        yield shop, archive


def translated(option: str, file: str) -> str:
    """The configuration, written by the command."""
    assert main(["init", option, str(PEERS / file), "-o", "translated.yaml"]) == 0
    return Path("translated.yaml").read_text()


async def shown(folder: Path, text: str, wanted: Series, **environment: str) -> Series:
    """The series of the metrics in a recording, once they are all there."""
    names = {name for name, _ in wanted}
    config = {"web": {"listen": "127.0.0.1:0"}, **yaml.safe_load(text)}
    async with running(folder, config, **environment) as process:
        await process.until_ready()
        return {one: value for one, value in (await process.metrics()).items() if one[0] in names}


def recorded(file: str) -> Series:
    return series((PEERS / file).read_text())


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_translated_query_exporter_has_the_same_series(server: Postgres, folder: Path) -> None:
    """But for a counter's name, and NULL, which query-exporter shows as 0."""
    text = translated("--from-query-exporter", "query-exporter.yaml")
    wanted = {
        (name.removesuffix("_total"), labels): value
        for (name, labels), value in recorded("query-exporter.metrics").items()
        if not name.endswith("_created")
    }
    async with shop_and_archive(server) as (shop, archive):
        found = await shown(folder, text, wanted, SHOP=shop.dsn, ARCHIVE=archive.dsn)
    assert found.keys() == wanted.keys()
    different = {
        (name, dict(labels)["country"]) for (name, labels) in found if found[name, labels] != wanted[name, labels]
    }
    assert different == {("orders_amount", "fr")}


async def test_translated_sql_exporter_has_the_same_series(server: Postgres, folder: Path) -> None:
    text = translated("--from-sql-exporter", "burningalchemist.yml")
    wanted = recorded("burningalchemist.metrics")
    async with shop_and_archive(server) as (shop, archive):
        assert await shown(folder, text, wanted, SHOP=shop.dsn, ARCHIVE=archive.dsn) == wanted


async def test_translated_configuration_of_justwatch_has_the_same_series(server: Postgres, folder: Path) -> None:
    """The labels of the connection are in variables, so the translation names them as missing."""
    text = translated("--from-sql-exporter", "justwatch.yml")
    assert "labels of the job shop that are in variables: host, user" in text.replace("\n#    ", "")
    load_text(text, "translated.yaml", {"DB_USER": "u", "DB_HOST": "h", "DB_PORT": "5432"})
    wanted = recorded("justwatch.metrics")
    async with shop_and_archive(server) as (shop, _):
        config = yaml.safe_load(text)
        config["sources"]["shop"] |= {"dsn": "${SHOP}"}
        for name in ("host", "port", "user", "database", "sslmode"):
            del config["sources"]["shop"][name]
        for alert in config["alerts"].values():
            alert["static_labels"] |= {"host": "HOST", "user": "postgres"}
        assert await shown(folder, yaml.safe_dump(config), wanted, SHOP=shop.dsn) == wanted
