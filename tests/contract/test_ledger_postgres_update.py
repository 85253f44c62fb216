"""`tocsin ledger migrate`: the tables in PostgreSQL without a process that runs alerts."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from pydantic import SecretStr

from support.ledger import fired
from support.postgres import Database
from support.tocsin import write
from tocsin.cli import main
from tocsin.ledger.postgres import LedgerServer, open_ledger, schema

NOW = len(schema.MIGRATIONS)
NEXT = "\n    ALTER TABLE ledger ADD more integer;\n    "


@pytest.fixture
def config(database: Database, tmp_path: Path) -> Path:
    whole = {
        "ledger": {"url": database.dsn, "lease": "300ms"},
        "sources": {"posted": {"type": "http", "token": "0123456789abcdef"}},
        "channels": {"out": {"type": "console"}},
        "alerts": {"order": {"source": "posted", "notify": ["out"]}},
    }
    return write(tmp_path / "tocsin.yaml", whole)


Answer = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> "Run":
    return Run(capsys)


class Run:
    """Runs the command: exit status, standard output, standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *arguments: str | Path) -> Answer:
        status = await asyncio.to_thread(main, ["ledger", "migrate", *map(str, arguments)])
        return status, *self._capsys.readouterr()


async def version(database: Database) -> int:
    [[found]] = await database.run("SELECT version FROM tocsin.ledger")
    return int(found)


async def test_tables_are_made_once(run: Run, config: Path, database: Database) -> None:
    status, output, errors = await run(config)
    assert (status, errors) == (0, "")
    assert output.endswith(f"schema tocsin were made (version {NOW})\n")
    status, output, errors = await run(config)
    assert (status, errors) == (0, "")
    assert output.endswith(f"schema tocsin are up to date (version {NOW}); nothing was to do\n")
    assert await version(database) == NOW
    assert database.dsn not in output


async def test_update_is_refused_while_older_processes_run(
    run: Run, config: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names them, and changes nothing. Processes of this version may run while there is nothing to do."""
    server = LedgerServer(dsn=SecretStr(database.dsn), lease=0.3)
    running = await open_ledger(server)
    assert (await run(config))[0] == 0
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, NEXT))
    for more in ([], ["--dry-run"]):
        status, output, errors = await run(config, *more)
        assert (status, output) == (3, "")
        who = f"process {os.getpid()} on {socket.gethostname()}"
        assert f"{who} runs the alerts on tables {NOW}, with an older version of Tocsin; stop it first" in errors
    assert len(await fired(running, "1")) == 1
    await running.close()
    assert await run(config, "--dry-run") == (0, "ALTER TABLE ledger ADD more integer;\n", "")
    assert await version(database) == NOW
    status, output, _ = await run(config)
    assert (status, output.endswith(f"schema tocsin were brought from version {NOW} to {NOW + 1}\n")) == (0, True)
    assert await database.run("SELECT version, more FROM tocsin.ledger") == [(NOW + 1, None)]


async def test_newer_tables_are_refused(run: Run, config: Path, database: Database) -> None:
    await run(config)
    await database.run("UPDATE tocsin.ledger SET version = 70")
    for more in ([], ["--dry-run"]):
        status, output, errors = await run(config, *more)
        assert (status, output, "written by a newer version of Tocsin (tables 70" in errors) == (3, "", True)


async def test_tables_belong_to_the_owner_of_the_schema(run: Run, config: Path, database: Database) -> None:
    """An administrator updates them; the role that runs the alerts uses them."""
    await database.run("CREATE ROLE clerk LOGIN; CREATE SCHEMA tocsin AUTHORIZATION clerk")
    try:
        assert (await run(config))[0] == 0
        owners = await database.run("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'tocsin'")
        assert owners == [("clerk",)]
        ledger = await open_ledger(LedgerServer(dsn=SecretStr(f"{database.dsn} user=clerk"), lease=0.3))
        assert len(await fired(ledger, "1")) == 1
        await ledger.close()
    finally:
        await database.run("DROP OWNED BY clerk; DROP ROLE clerk")


async def test_file_and_unreachable_server_are_explained(run: Run, tmp_path: Path) -> None:
    status, output, errors = await run(tmp_path / "tocsin.db")
    assert (status, output) == (3, "")
    assert errors.endswith("tocsin.db: `tocsin run` brings a ledger in a file up to date by itself\n")
    status, output, errors = await run("postgresql://tocsin@127.0.0.1:1/alerts")
    assert (status, output, "127.0.0.1" in errors) == (3, "", True)
