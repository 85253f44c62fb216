"""A recording of a running process, and alerts that run over it: the same notifications as in the live run."""

import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.ports import free_port
from support.postgres import Database
from support.receiver import Receiver
from support.recording import SECRET, TOKEN, ended, items, recorded, recording, replayed, sent
from support.tocsin import TocsinProcess, command, running, start, write
from support.waiting import until
from tocsin.recording.files import Recording
from tocsin.recording.lines import Events, Rows, State


def config(database: Database, receiver: Receiver, **late: Any) -> dict[str, Any]:
    alert = {"source": "shop", "relation": "late", "key": ["id"], "labels": ["customer"], "notify": ["team"], **late}
    return {
        "web": {"listen": "127.0.0.1:0", "tokens": {"all": {"token": TOKEN}}},
        "ledger": {"path": "ledger.db"},
        "sources": {
            "shop": {"type": "postgres", "dsn": database.dsn, "interval": "100ms"},
            "queue": {"type": "http", "token": TOKEN},
        },
        "channels": {
            name: {"type": "webhook", "url": f"{receiver.url}/{name}?token={SECRET}"} for name in ("team", "sales")
        },
        "alerts": {"late": alert, "signup": {"source": "queue", "notify": ["sales"]}},
    }


@pytest.fixture
async def shop(database: Database) -> Database:
    """Orders, of which those of Ann and Bob are late."""
    await database.run("CREATE TABLE orders (id int PRIMARY KEY, customer text, late bool)")
    await database.run("INSERT INTO orders VALUES (1, 'Ann', true), (2, 'Bob', true), (3, 'Cyd', false)")
    await database.run("CREATE VIEW late AS SELECT id, customer FROM orders WHERE late")
    return database


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


async def signup(tocsin: TocsinProcess, number: int) -> None:
    body = json.dumps({"number": number}).encode()
    status, text = await tocsin.post("/api/v1/events/signup", body, Authorization=f"Bearer {TOKEN}")
    assert status in (200, 202), text


async def events_recorded(file: Path) -> None:
    """Wait until both events of the night are in the file."""
    await recorded(file, lambda item: isinstance(item, Events), 2)


async def night(shop: Database, receiver: Receiver, tocsin: TocsinProcess) -> None:
    """What happens: rows come, change and go, and events come. Each is notified before the next."""
    count = len(receiver.requests)
    for statement in (
        "UPDATE orders SET late = true WHERE id = 3",
        "UPDATE orders SET customer = 'Bobby' WHERE id = 2",
        "DELETE FROM orders WHERE id = 1",
        "INSERT INTO orders VALUES (1, 'Ann', true)",
    ):
        await shop.run(statement)
        count += 1
        await receiver.arrived(count)
    for number in (1, 2):
        await signup(tocsin, number)
        await receiver.arrived(count + number)


async def recorded_night(shop: Database, receiver: Receiver, folder: Path) -> Path:
    """The night in a file. Two rows fire before it."""
    file = folder / "night.gz"
    async with running(folder, config(shop, receiver)) as tocsin:
        await receiver.arrived(2)
        async with recording(tocsin, file):
            await night(shop, receiver, tocsin)
            await events_recorded(file)
    return file


async def test_replay_notifies_what_the_live_run_did(shop: Database, receiver: Receiver, tmp_path: Path) -> None:
    """With the same ids, also of rows that fired before the recording began."""
    whole, file = config(shop, receiver), await recorded_night(shop, receiver, tmp_path)
    live = sent(receiver.requests[2:])
    assert [kind for _, kind, _ in live] == ["fired", "updated", "resolved", "fired", "event", "event"]
    assert await replayed(tmp_path, whole, file) == live
    assert not Recording(file).cut_off
    assert file.stat().st_mode & 0o077 == 0  # no one else may read it
    assert await replayed(tmp_path, whole, file, "--alert", "signup") == live[-2:]
    # Faster than it happened, and not at once.
    began, length = time.monotonic(), Recording(file).overview.end - Recording(file).overview.start
    assert await replayed(tmp_path, whole, file, "--speed", "5") == live
    assert time.monotonic() - began >= length / 5


async def test_changed_alert_runs_over_the_same_rows(shop: Database, receiver: Receiver, tmp_path: Path) -> None:
    """Under another name, with another key: the rows that were there when the recording began fire."""
    file = await recorded_night(shop, receiver, tmp_path)
    changed = config(shop, receiver, key=["id", "customer"])
    changed["alerts"]["every"] = changed["alerts"].pop("late")
    kinds = [kind for channel, kind, _ in await replayed(tmp_path, changed, file, "--alert", "every")]
    assert Counter(kinds) == {"fired": 5, "resolved": 2}  # the change of a customer is another firing
    other = {**changed, "alerts": {"other": {**changed["alerts"]["every"], "relation": "orders"}}}
    path = write(tmp_path / "other.yaml", other)
    status, _, errors = await command(tmp_path, "replay", str(file), "-c", str(path))
    assert (status, "the recording has nothing of other; it has shop: late; queue" in errors) == (1, True)


async def test_recording_survives_kill_and_restart_of_tocsin(
    shop: Database, receiver: Receiver, tmp_path: Path
) -> None:
    """The process that is recorded restarts, and the recorder is killed."""
    whole, file = config(shop, receiver), tmp_path / "night.gz"
    whole["web"]["listen"] = f"127.0.0.1:{free_port()}"
    async with running(tmp_path, whole) as tocsin:
        await receiver.arrived(2)
        process = await start(tmp_path, "record", "--url", tocsin.url, "-o", str(file), TOCSIN_TOKEN=TOKEN)
        await until(lambda: bool(items(file)), "it records")
        await shop.run("UPDATE orders SET late = true WHERE id = 3")
        await receiver.arrived(3)
        await tocsin.stop()
    async with running(tmp_path, whole) as tocsin:
        states = [State] * 2
        await until(lambda: [type(one) for one in items(file) if isinstance(one, State)] == states, "it records again")
        await shop.run("DELETE FROM orders WHERE id = 1")
        await receiver.arrived(4)
        await until(lambda: bool(removed(file)), "the change is recorded")
        process.send_signal(signal.SIGKILL)
        assert "recording again" in await ended(process, -signal.SIGKILL)
    assert Recording(file).cut_off
    assert await replayed(tmp_path, whole, file) == sent(receiver.requests[2:])


def removed(file: Path) -> list[Rows]:
    """The readings without the order 1."""
    readings = [one for one in items(file) if isinstance(one, Rows) and one.batch.snapshot is not None]
    return [one for one in readings if "1" not in {row[0] for _, _, row in one.batch.updates}]


def came_back(file: Path) -> bool:
    """Whether a reading has the order 1 again."""
    readings = [one for one in items(file) if isinstance(one, Rows) and one.batch.snapshot is not None]
    there = ["1" in {row[0] for _, _, row in one.batch.updates} for one in readings]
    return False in there and True in there[there.index(False) :]


async def test_redacted_columns_are_in_no_byte_of_the_file(shop: Database, receiver: Receiver, tmp_path: Path) -> None:
    """And the alerts fire, change and resolve all the same."""
    whole, file = config(shop, receiver), tmp_path / "night.gz"
    async with running(tmp_path, whole) as tocsin:
        await receiver.arrived(2)
        async with recording(tocsin, file, "--redact", "customer", "--alert", "late"):
            await night(shop, receiver, tocsin)
            await until(lambda: came_back(file), "the last change is recorded")
    content = repr(items(file))
    assert not any(name in content for name in ("Ann", "Bob", "Cyd"))
    live = [(channel, kind, id_) for channel, kind, id_ in sent(receiver.requests[2:]) if channel == "team"]
    assert await replayed(tmp_path, whole, file) == live  # the key is not hidden, so the ids are the same
    async with running(tmp_path, whole) as tocsin:
        process = await start(
            tmp_path, "record", "--url", tocsin.url, "-o", "typo.gz", "--redact", "custmer", TOCSIN_TOKEN=TOKEN
        )
        await until(lambda: bool(items(tmp_path / "typo.gz")), "it records")
        process.send_signal(signal.SIGTERM)
        assert "no row had a column custmer" in await ended(process, 1)


async def test_replay_sends_with_ids_and_ledger_of_its_own(shop: Database, receiver: Receiver, tmp_path: Path) -> None:
    whole, file = config(shop, receiver), await recorded_night(shop, receiver, tmp_path)
    live = sent(receiver.requests)
    before = (tmp_path / "ledger.db").read_bytes()
    path = write(tmp_path / "replay.yaml", whole)
    arguments = ("replay", str(file), "-c", str(path), "--send")
    status, _, errors = await command(tmp_path, *arguments)
    assert (status, "--send sends to sales, team; add --yes" in errors) == (1, True)
    assert len(receiver.requests) == len(live)
    status, output, errors = await command(tmp_path, *arguments, "--yes", "--speed", "max")
    assert (status, sorted(output.splitlines())) == (0, ["sales: 2 delivered", "team: 4 delivered"]), errors
    again = sent(receiver.requests[len(live) :])
    assert Counter(kind for _, kind, _ in again) == Counter(kind for _, kind, _ in live[2:])
    assert not {id_ for _, _, id_ in again} & {id_ for _, _, id_ in live}
    assert (tmp_path / "ledger.db").read_bytes() == before


async def test_mistakes_are_named_before_a_file_is_made(shop: Database, receiver: Receiver, tmp_path: Path) -> None:
    async with running(tmp_path, config(shop, receiver)) as tocsin:

        async def record(*options: str, token: str = TOKEN) -> str:
            arguments = ("record", "--url", tocsin.url, "-o", "night.gz", *options)
            status, output, errors = await command(tmp_path, *arguments, TOCSIN_TOKEN=token)
            assert (status, output) == (1, "")
            return errors

        assert "there is no alert 'early'; there are: late, signup" in await record("--alert", "early")
        assert "the token is wrong" in await record(token="wrong-and-long-enough")
        assert not (tmp_path / "night.gz").exists()
        (tmp_path / "night.gz").write_bytes(b"precious")
        assert "night.gz: exists already; name another file with -o" in await record()
        assert (tmp_path / "night.gz").read_bytes() == b"precious"
    assert "does `tocsin run` run there?" in (await command(tmp_path, "record", "--url", "http://127.0.0.1:9"))[2]
