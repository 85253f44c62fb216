"""At three in the morning: a real PostgreSQL, a receiver, and what `tocsin explain` says of what goes wrong."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.postgres import Database
from support.receiver import Answer, Receiver, of_json
from support.tocsin import Harness, TocsinProcess, command, quick_channel, running, write
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e

SECRET = "Bearer S3CR3T-and-quite-long"
VIEW = "CREATE OR REPLACE VIEW late_orders AS SELECT id, customer, severity, minutes FROM orders WHERE minutes > "


@dataclass(slots=True)
class Night:
    """A view of late orders, a configuration, and the receiver that it notifies."""

    directory: Path
    database: Database
    receiver: Receiver
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def alert(self) -> Any:
        return self.config["alerts"]["late_orders"]

    async def late(self, id_: int, *, customer: str = "Ann", severity: str = "page") -> None:
        """Make an order late."""
        await self.database.run("INSERT INTO orders VALUES (%s, %s, %s, 30)", id_, customer, severity)
        await self.database.run("NOTIFY orders")

    async def explained(self, *key: str) -> tuple[str, dict[str, Any]]:
        """What the command says in words, and as JSON."""
        return await self._said(*key), json.loads(await self._said(*key, "--json"))

    async def says(self, *parts: str, key: str = "17") -> str:
        """Wait until it says all of these, and return all that it says."""

        async def probe() -> str:
            text = await self._said(key)
            has_all(text, *parts)
            return text

        return await until_some(probe)

    async def _said(self, *arguments: str) -> str:
        status, output, errors = await command(
            self.directory, "explain", "late_orders", *arguments, "-c", "tocsin.yaml"
        )
        assert status == 0, errors
        assert SECRET not in output
        assert "S3CR3T" not in output
        return output


def has_all(text: str, *parts: str) -> None:
    """Fail unless all parts are in the text, whether they begin a sentence there or not."""
    for part in parts:
        assert part.lower() in text.lower(), f"{part!r} is not in:\n{text}"


@pytest.fixture
async def night(tmp_path: Path, database: Database) -> AsyncIterator[Night]:
    await database.run("CREATE TABLE orders (id int PRIMARY KEY, customer text, severity text, minutes int)")
    await database.run(VIEW + "10")
    async with Receiver() as receiver:
        source = {"type": "postgres", "dsn": database.dsn, "interval": "200ms", "notify": ["orders"]}
        alert = {"source": "db", "relation": "late_orders", "key": ["id"], "labels": ["id", "customer"]}
        hook = quick_channel(f"{receiver.url}/hook", headers={"Authorization": SECRET})
        config = {
            "web": {"listen": "127.0.0.1:0"},
            "ledger": {"path": str(tmp_path / "ledger.db")},
            "sources": {"db": {**source, "backoff_initial": "20ms", "backoff_max": "100ms"}},
            "channels": {"hook": hook},
            "alerts": {"late_orders": {**alert, "value": "minutes", "notify": ["hook"]}},
        }
        yield Night(tmp_path, database, receiver, config)


async def started(night: Night, tocsin: TocsinProcess) -> None:
    """Wait until it is ready, and have commands find it."""
    await tocsin.until_ready()
    night.config["web"]["listen"] = tocsin.url.removeprefix("http://")
    tocsin.write(night.config)


async def test_receiver_that_answers_400_is_named(night: Night) -> None:
    night.receiver.script(of_json(400, {"error": "the field severity is missing"}))
    async with running(night.directory, night.config) as tocsin:
        await started(night, tocsin)
        await night.late(17)
        text = await night.says("given up on", "the field severity is missing")
        has_all(text, "late_orders 17 fires since", "rejected: 400", "would refuse it again", "tocsin outbox retry")
        _, found = await night.explained("17")
        [one] = found["notifications"]
        assert (found["verdict"], one["status"], one["reason"]) == ("firing", "dead", "rejected")
        assert one["answers"][0]["answer"].startswith("400 ")
        assert one["request"]["body"] == night.receiver.requests[0].json
        assert one["request"]["headers"]["Authorization"] == "<secret>"
        # One notification's whole life, in the API and in the command.
        life = await tocsin.json(f"/api/v1/notifications/{one['id']}")
        assert life["route"]["channel"] == "hook"
        for name in ("request", "answers", "next"):
            assert life[name] == one[name]
        has_all(" ".join(life["says"]), "given up on", "would refuse it again")
        status, output, errors = await command(night.directory, "outbox", "show", one["id"], "-c", "tocsin.yaml")
        assert (status, errors) == (0, "")
        has_all(output, '"Authorization": "<secret>"', "400", "route to hook (webhook)", "next: the fired to hook")


async def test_every_process_knows_what_the_leader_sent(night: Night) -> None:
    """Each process reads the view at times of its own, and still answers with the episode of the leader. Where the
    leader was killed, the command says how to ask another one."""
    night.config["ledger"] = {"url": night.database.dsn, "lease": "1s"}
    night.receiver.script(of_json(400, {"error": "the field severity is missing"}))
    async with (
        running(night.directory, night.config, file="first.yaml") as first,
        running(night.directory, night.config, file="second.yaml") as second,
    ):
        for one in (first, second):
            await one.until_ready()
        await night.late(17)

        async def said() -> list[tuple[str, list[str]]]:
            found = [await one.json("/api/v1/explain/late_orders?key=17") for one in (first, second)]
            return [(one["started_at"], [sent["status"] for sent in one["notifications"]]) for one in found]

        async def alike() -> bool:
            [one, other] = await said()
            return one == other and one[1] == ["dead"]

        await until_some(alike, "the same answer of both")
        night.config["web"]["listen"] = first.url.removeprefix("http://")
        await first.kill()
        write(night.directory / "tocsin.yaml", night.config)
        status, output, errors = await command(night.directory, "explain", "late_orders", "17")
        assert status == 0
        has_all(errors, "connection refused; does", "`tocsin instances` lists the processes", "reading the ledger")
        has_all(output, "given up on", "the field severity is missing")


async def test_view_that_was_replaced_is_named(night: Night) -> None:
    async with running(night.directory, night.config) as tocsin:
        await started(night, tocsin)
        await night.late(17)
        await night.says("delivered at", "answered: 200")
        await night.database.run(VIEW + "60")
        text = await night.says("does not fire any more", "the definition of the view was changed")
        has_all(text, "at about that time, this happened to the source")
        # Without a column that the alert names, and without the view.
        await night.database.run("DROP VIEW late_orders; CREATE VIEW late_orders AS SELECT id, customer FROM orders")
        await night.says("the alert is in error", "the relation has no column minutes")
        await night.database.run("DROP VIEW late_orders")
        await night.says("the alert is in error", 'relation "late_orders" does not exist', "the next attempt is at")


async def test_replaced_view_of_materialize_is_named(harness: Harness) -> None:
    """A subscription goes on with the object that the name referred to, so Tocsin subscribes again."""
    harness.source["identity_check"] = "100ms"
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_notified(("fired", "1"))
        harness.replace_view()

        async def named() -> bool:
            found = await tocsin.json("/api/v1/explain/orders?key=1")
            has_all(
                " ".join([found["summary"], *found["because"]]), "does not fire any more", "this happened to the source"
            )
            return True

        await until_some(named)


async def test_stuck_group_and_blocked_key_are_named(night: Night) -> None:
    night.config["channels"]["digest"] = quick_channel(f"{night.receiver.url}/digest", interval="1h")
    digest = {"channel": "digest", "interval": "1h", "group_by": ["customer"]}
    pager = {"channel": "hook", "when": 'row.severity == "page"'}
    night.alert["notify"] = [pager, digest]
    night.receiver.otherwise = lambda request: Answer(
        status=503 if request.path == "/hook" else 200, body=b"overloaded"
    )
    async with running(night.directory, night.config) as tocsin:
        await started(night, tocsin)
        await night.late(17)
        await night.says("503 overloaded", "delivered at")
        await night.late(18, severity="info")
        text = await night.says('is false for this row (row.severity = "info")', "waits in a digest", key="18")
        has_all(text, 'of the group customer = "Ann" within 1h are merged')
        # The row changes: that waits behind what fails.
        await night.database.run("UPDATE orders SET minutes = 40 WHERE id = 17")
        await night.database.run("NOTIFY orders")
        text = await night.says("waits behind", "the fired of", "notifications of the same row are sent in order")
        has_all(text, "server_error: 503 overloaded")
        _, found = await night.explained("17")
        assert [step["text"] for step in found["next"] if "is sent after" in step["text"]]


async def test_silence_that_holds_back_is_named(night: Night) -> None:
    async with running(night.directory, night.config) as tocsin:
        await started(night, tocsin)
        matcher = ("--for", "1h", "--reason", "the warehouse moves", "-c", "tocsin.yaml")
        status, _, errors = await command(night.directory, "silence", "add", 'customer="Ann"', *matcher)
        assert status == 0, errors
        await tocsin.until_logged('event="silence active"')
        await night.late(17)
        text = await night.says("held back by the silence", "the warehouse moves")
        has_all(text, "notifications of it are held back", "the fired to hook is sent if its row still fires then")
        await night.database.run("DELETE FROM orders")
        await night.database.run("NOTIFY orders")
        await night.says("does not fire any more", "the fired to hook is dropped: began and ended while")
        assert night.receiver.requests == []


async def test_unknown_key_names_the_nearest(night: Night) -> None:
    async with running(night.directory, night.config) as tocsin:
        await started(night, tocsin)
        await night.late(1017)
        await night.says("delivered at", key="1017")
        text, found = await night.explained("1018")
        assert found["verdict"] == "unseen"
        assert [one["key"] for one in found["nearest"]] == [{"id": "1017"}]
        assert "id=1017" in text
        by_column, _ = await night.explained("customer=Ann")
        has_all(by_column, "fires since")
        status, _, errors = await command(night.directory, "explain", "late_orders", "a=1", "-c", "tocsin.yaml")
        assert (status, "there is no column 'a'; the key is id" in errors) == (1, True)
        status, answer = await tocsin.get("/api/v1/explain/nosuch?key=1")
        assert (status, "there is no alert" in answer) == (404, True)


async def test_ledger_is_read_where_nothing_runs(night: Night) -> None:
    night.receiver.otherwise = lambda _: Answer(status=503)
    async with running(night.directory, night.config) as tocsin:
        await started(night, tocsin)
        await night.late(17)
        await until(lambda: night.receiver.requests)
        await night.says("503")
        await tocsin.stop()
    text, found = await night.explained("17")
    assert (found["verdict"], found["source"]) == ("firing", None)
    has_all(text, "no process was asked", "attempts failed, the last one for: server_error: 503", "is not known")
