"""`tocsin doctor` beside a running process and a real PostgreSQL."""

import json
import secrets
import signal
from pathlib import Path
from typing import Any

import aiohttp

from support.kafka import Kafka, login, new_topic
from support.pgbouncer import pgbouncer
from support.postgres import Database, Postgres
from support.receiver import Answer, Receiver
from support.tocsin import TocsinProcess, command, running, write
from support.waiting import until_equal, until_some
from tocsin.doctor.findings import Severity
from tocsin.doctor.servers import Place, reached
from tocsin.sources.settings import PostgresConfig

SECRET = "S3CR3T-and-quite-long"
LATE = """
    CREATE TABLE orders (id int PRIMARY KEY, due timestamptz);
    INSERT INTO orders SELECT n, now() - interval '1 hour' FROM generate_series(1, 3) AS n;
    CREATE VIEW late AS SELECT id, due FROM orders WHERE due < now();
    CREATE VIEW restless AS SELECT id, now() - due AS age FROM orders
"""


def config(dsn: str, hook: str, **more: Any) -> dict[str, Any]:
    late = {"source": "shop", "relation": "late", "key": ["id"], "notify": ["hook"]}
    return {
        "web": {"listen": "127.0.0.1:0"},
        "ledger": {"path": "ledger.db"},
        "sources": {"shop": {"type": "postgres", "dsn": dsn, "interval": "500ms"}},
        "channels": {"hook": {"type": "webhook", "url": f"{hook}?token={SECRET}", "max_attempts": 1}},
        "alerts": {"late": late},
        **more,
    }


async def doctor(directory: Path, whole: dict[str, Any], *options: str) -> dict[tuple[str, str, str], str]:
    """Place, check and severity -> message. What is wrong has a fix, the exit status is that of the worst finding, and
    no secret is printed."""
    file = write(directory / "tocsin.yaml", whole)
    status, output, errors = await command(directory, "doctor", "--json", "--config", str(file), *options)
    assert errors == ""
    assert SECRET not in output
    found = json.loads(output)["findings"]
    assert all(one["fix"] for one in found if one["severity"] in ("error", "warning"))
    severities = {one["severity"] for one in found}
    assert status == (1 if "error" in severities else 5 if "warning" in severities else 0)
    return {(one["place"], one["check"], one["severity"]): one["message"] for one in found}


def bad(found: dict[tuple[str, str, str], str]) -> set[tuple[str, str, str]]:
    """What is wrong, but for what depends on the machine of the tests."""
    machine = ("file system", "free space", "fsync", "commit")
    return {key for key in found if key[2] in ("error", "warning") and key[1] not in machine}


def measured(found: dict[tuple[str, str, str], str], check: str) -> str:
    """The message of a check, however fast this machine is."""
    return next(message for (_, name, _), message in found.items() if name == check)


async def scrape(tocsin: TocsinProcess) -> None:
    """Read /metrics as Prometheus does."""
    as_prometheus = {"User-Agent": "Prometheus/3.16.0"}
    async with aiohttp.request("GET", f"{tocsin.url}/metrics", headers=as_prometheus) as response:
        assert response.status == 200
        await response.read()  # a page that was not written whole was not read


async def test_healthy_installation_has_no_finding(database: Database, tmp_path: Path) -> None:
    """Beside the running process, which Prometheus reads. Without it, the rest is checked all the same."""
    await database.run(LATE)
    async with Receiver() as receiver:
        whole = config(database.dsn, receiver.url)
        async with running(tmp_path, whole, file="running.yaml") as tocsin:
            await tocsin.until_ready()
            await scrape(tocsin)

            async def seen() -> dict[tuple[str, str, str], str]:
                found = await doctor(tmp_path, whole, "--url", tocsin.url)
                assert ("process", "scrapes", "ok") in found, found
                return found

            found = await until_some(seen, "a doctor that the process answers", longest=1.0)
        assert bad(found) == set()
        assert "1 reader of /metrics (Prometheus/3.16.0 from 127.0.0.1)" in found["process", "scrapes", "ok"]
        assert found["process", "configuration", "ok"]
        assert "takes" in measured(found, "fsync")
        assert found["ledger.path", "outbox", "ok"]
        assert "PostgreSQL" in found["sources.shop", "connection", "ok"]
        assert found["sources.shop", "clock", "ok"]
        assert found["alerts.late", "changes", "ok"]
        assert found["channels.hook", "receiver", "ok"]
        assert found["alerts.late", "check", "ok"]
        found = await doctor(tmp_path, whole, "--url", tocsin.url)
        assert bad(found) == set()
        assert "does `tocsin run` run there?" in found["process", "status", "skipped"]


async def test_warnings_have_a_status_of_their_own(database: Database, tmp_path: Path) -> None:
    """Rows that change by themselves, dead letters, another configuration than the running one."""
    await database.run(LATE)
    async with Receiver(lambda _: Answer(status=400)) as receiver:
        whole = config(database.dsn, receiver.url)
        async with running(tmp_path, whole, file="running.yaml") as tocsin:
            await tocsin.until_metric("tocsin_channel_dead_letters", 3.0, channel="hook")
            restless = {"source": "shop", "relation": "restless", "key": ["id"], "notify": ["hook"]}
            changed = {**whole, "alerts": {**whole["alerts"], "restless": restless}}
            found = await doctor(tmp_path, changed, "--url", tocsin.url)
    wrong = {key: found[key] for key in bad(found)}
    assert wrong.pop(("alerts.restless", "changes", "warning")).startswith("age of most rows changed")
    assert wrong.pop(("channels.hook", "dead letters", "warning")).startswith("3 dead letters; the newest is rejected")
    assert wrong.pop(("process", "configuration", "warning")).startswith("it runs another configuration")
    assert "none of them says that it is Prometheus" in wrong.pop(("process", "scrapes", "warning"))
    assert "3 notifications were given up on" in wrong.pop(("process", "readiness", "warning"))
    assert wrong == {}


async def test_unreachable_servers_are_errors(tmp_path: Path) -> None:
    """Everything else is checked all the same."""
    whole = config(f"postgresql://ann:{SECRET}@127.0.0.1:9/shop", "http://127.0.0.1:9/")
    found = await doctor(tmp_path, whole, "--url", "http://127.0.0.1:9")
    assert bad(found) == {("sources.shop", "connection", "error"), ("channels.hook", "receiver", "error")}
    assert "ann@127.0.0.1:9/shop" in found["sources.shop", "connection", "error"]
    assert measured(found, "fsync")
    # What could not be asked is not said to be right.
    assert [place for place, check, _ in found if check == "check"] == ["configuration"]


async def test_channel_that_cannot_be_made_stops_no_check(database: Database, tmp_path: Path) -> None:
    """Its handler is nowhere."""
    await database.run(LATE)
    whole = config(database.dsn, "http://127.0.0.1:9/")
    whole["channels"]["own"] = {"type": "python", "handler": "nowhere:handle"}
    whole["alerts"]["late"]["notify"].append("own")
    found = await doctor(tmp_path, whole, "--url", "http://127.0.0.1:9")
    assert {place for place, _, _ in bad(found)} == {"channels.own.handler", "channels.hook"}, found
    assert found["alerts.late", "changes", "ok"]


async def test_problem_of_check_is_reported_with_its_place(database: Database, tmp_path: Path) -> None:
    """A view that the role may not read."""
    await database.run(LATE)
    role = f"doctor_{secrets.token_hex(4)}"
    await database.run(f"CREATE ROLE {role} LOGIN")
    try:
        whole = config(f"{database.dsn} user={role}", "http://127.0.0.1:9/")
        found = await doctor(tmp_path, whole, "--url", "http://127.0.0.1:9")
    finally:
        await database.run(f"DROP ROLE {role}")
    assert "permission denied for view late" in found["alerts.late.relation", "check", "error"]


async def test_ledger_in_postgresql_is_checked(server: Postgres, database: Database, tmp_path: Path) -> None:
    """What it may lose, how long a commit takes, and a pooler in between."""
    await database.run(LATE)
    async with Receiver() as receiver:
        with pgbouncer(server) as pooled:
            whole = config(database.dsn, receiver.url, ledger={"url": pooled(database.dsn)})
            found = await doctor(tmp_path, whole, "--url", "http://127.0.0.1:9")
            assert bad(found) == set()
            assert "does no harm here" in found["ledger.url", "pooler", "ok"]
        whole = config(database.dsn, receiver.url, ledger={"url": database.dsn})
        found = await doctor(tmp_path, whole, "--url", "http://127.0.0.1:9")
        assert "takes" in measured(found, "commit")
        name = (await database.run("SELECT current_database()"))[0][0]
        await database.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
        found = await doctor(tmp_path, whole, "--url", "http://127.0.0.1:9")
        assert "synchronous_commit is off" in found["ledger.url", "durability", "error"]


async def test_people_get_places_words_and_fixes(database: Database, tmp_path: Path) -> None:
    await database.run(LATE)
    file = write(tmp_path / "tocsin.yaml", config(database.dsn, "http://127.0.0.1:9/"))
    status, output, errors = await command(
        tmp_path, "doctor", "--config", str(file), "--url", "http://127.0.0.1:9", "--downtime", "1d"
    )
    assert (status, errors) == (1, "")
    assert "channels.hook\n  error    receiver: 127.0.0.1 cannot be reached: Connection refused\n" in output
    assert "           fix: check its url, DNS, proxies and firewalls\n" in output
    assert "1 error" in output.splitlines()[-1]
    status, _, errors = await command(tmp_path, "doctor", "--config", str(file), "--downtime", "soon")
    assert (status, errors) == (
        2,
        "--downtime: 'soon' is not a duration; write for example 500ms, 30s, 5m or 1h30m\n",
    )


async def test_refused_reload_is_an_error(database: Database, tmp_path: Path) -> None:
    await database.run(LATE)
    async with Receiver() as receiver:
        whole = config(database.dsn, receiver.url)
        async with running(tmp_path, whole, file="running.yaml") as tocsin:
            await tocsin.until_ready()
            tocsin.write({**whole, "alerts": {"late": {"source": "none"}}})
            tocsin.signal(signal.SIGHUP)

            async def refused() -> bool:
                return bool((await tocsin.json("/api/v1/status"))["configuration"]["refused"])

            await until_equal(refused, True, "the reload is refused")
            found = await doctor(tmp_path, whole, "--url", tocsin.url)
    assert "there is no source 'none'" in found["process", "configuration", "error"]


async def test_retention_of_topics_is_asked(broker: Kafka, tmp_path: Path) -> None:
    """A topic of events that keeps them for a minute, and one of rows that deletes them."""
    user = {name: str(value) if isinstance(value, Path) else value for name, value in login(broker).items()}
    topics = {name: new_topic(broker, retention_ms="60000") for name in ("events", "rows")}
    whole = config("postgresql://ann@127.0.0.1:9/shop", "http://127.0.0.1:9/")
    whole["sources"] = {
        "events": {"type": "kafka", "bootstrap_servers": [broker.brokers]},
        "rows": {"type": "kafka", "bootstrap_servers": [broker.brokers], "state": True, "columns": {"id": "integer"}},
        "refused": {"type": "kafka", "bootstrap_servers": [broker.guarded], **user},
    }
    topics["refused"] = topics["events"]
    whole["alerts"] = {
        name: {"source": name, "topic": topics[name], "key": ["id"], "notify": ["hook"]} for name in topics
    }
    found = await doctor(tmp_path, whole, "--url", "http://127.0.0.1:9")
    assert "keeps events for 1m: after a longer downtime" in found["alerts.events", "retention", "warning"]
    assert "deletes records after 1m" in found["alerts.rows", "retention", "warning"]
    assert "DESCRIBE_CONFIGS" in found["alerts.refused", "retention", "skipped"]


async def test_pooler_before_a_subscription_is_a_warning(server: Postgres, database: Database) -> None:
    """What the check of a source `materialize` does, here with PostgreSQL behind PgBouncer."""
    with pgbouncer(server) as pooled:
        settings = PostgresConfig.model_validate({"dsn": pooled(database.dsn)})
        place = Place(path="sources.mz", settings=settings, kind="postgres", direct="it may end the subscription")
        found = {one.check: one for one in await reached(place)}
    assert found["pooler"].severity is Severity.WARNING
    assert "it may end the subscription" in found["pooler"].message
