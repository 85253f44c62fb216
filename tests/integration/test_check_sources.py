"""What `tocsin check --online` reports about sources of events, against real servers. It reads and creates nothing."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aio_pika
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from support import events_table
from support.kafka import USERS, Kafka, allow, committed, login, new_topic, produce
from support.ports import free_port
from support.postgres import Database, Postgres
from support.rabbitmq import (
    GUEST,
    GUEST_PASSWORD,
    PASSWORD,
    USER,
    Peer,
    RabbitMQ,
    new_queue,
    peer,
    shared_rabbitmq,
)
from support.tocsin import command, write
from support.waiting import until_some
from tocsin.channels import kafka as kafka_channel
from tocsin.sources import kafka as kafka_kind
from tocsin.sources import postgres_events
from tocsin.sources import rabbitmq as rabbitmq_kind
from tocsin.sources.kafka.events import KafkaEvents

# One server with its own logins.
needs_login = pytest.mark.xdist_group("postgres-login")

WRONG = "wr0ng-and-quite-long"
RIGHT = "S3CR3T-and-quite-long"


def one(problems: Sequence[str], *words: str) -> str:
    """The only problem: one line with these words and without a secret."""
    [problem] = problems
    assert all(word in problem for word in words), problem
    assert "\n" not in problem
    assert not any(secret in problem for secret in (WRONG, RIGHT, PASSWORD, GUEST_PASSWORD, *USERS.values()))
    return problem


# RabbitMQ.


@pytest.fixture
async def other() -> AsyncIterator[Peer]:
    async with peer(shared_rabbitmq()) as connected:
        yield connected


async def asked(broker: RabbitMQ, queue: str, **settings: Any) -> list[str]:
    given = {"host": "127.0.0.1", "port": broker.port, "user": USER, "password": PASSWORD, "connect_timeout": "5s"}
    config = rabbitmq_kind.Config.model_validate({**given, "queue": queue, **settings})
    return await rabbitmq_kind.build("letters", config).verify(["late"])


async def exists(other: Peer, queue: str) -> bool:
    """Whether there is such a queue."""
    try:
        await other.counts(queue)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False
    return True


async def test_missing_queue_is_neither_a_problem_nor_created(other: Peer) -> None:
    """A refused login is one."""
    queue = new_queue()
    settings = {"exchange": f"{queue}.e", "binding_keys": "#"}
    assert await asked(shared_rabbitmq(), queue, **settings) == []
    for missing in (queue, f"{queue}.dead"):
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await other.counts(missing)
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await other.channel.get_exchange(f"{queue}.e")
    one(await asked(shared_rabbitmq(), queue, password=WRONG), "ACCESS_REFUSED")


async def test_queue_and_exchange_must_exist_without_declare(other: Peer) -> None:
    queue = new_queue()
    guest = {"user": GUEST, "password": GUEST_PASSWORD, "declare": False}
    of_queue, of_exchange = await asked(shared_rabbitmq(), queue, **guest)
    one([of_queue], f"no queue '{queue}'")
    one([of_exchange], f"no exchange '{queue}.dead'")
    await other.channel.declare_queue(queue)
    await other.channel.declare_exchange(f"{queue}.dead", "fanout")
    await other.send(queue, {"alert": "late"})
    assert await asked(shared_rabbitmq(), queue, **guest) == []
    assert await other.counts(queue) == (1, 0), "the message is still there, and has no consumer"


async def test_every_different_argument_is_reported(other: Peer) -> None:
    queue = new_queue()
    await other.channel.declare_queue(queue, durable=True, arguments={"x-max-length": 5})
    await other.channel.declare_exchange(f"{queue}.e", "fanout", durable=True)
    settings = {"exchange": f"{queue}.e", "binding_keys": "#"}
    of_exchange, of_queue = await asked(shared_rabbitmq(), queue, **settings)
    one([of_exchange], f"the exchange {queue}.e exists with another type")
    one([of_queue], f"the queue {queue} exists with another x-max-length", "set queue_arguments to the existing value")
    fitting = {**settings, "exchange_type": "fanout", "queue_arguments": {"x-max-length": 5}}
    assert await asked(shared_rabbitmq(), queue, **fitting) == []


# Kafka.


async def asked_of_kafka(at: str, *names: str, **settings: Any) -> list[str]:
    given = {"bootstrap_servers": [at], "group": "asking", "connect_timeout": "3s", **settings}
    made = kafka_kind.build("broker", kafka_kind.Config.model_validate(given))
    assert isinstance(made, KafkaEvents)
    return await made.verify(names)


async def test_each_missing_topic_is_reported(broker: Kafka) -> None:
    topic, dead = new_topic(broker), new_topic(broker, "dead")
    produce(broker, topic, [("k", json.dumps({"n": 1}))])
    assert await asked_of_kafka(broker.brokers, topic, dead_letters=dead) == []
    assert committed(broker, "asking", topic)[0] < 0, "the group is where it was"
    first, second = await asked_of_kafka(broker.brokers, f"{topic}-x", topic, dead_letters=f"{dead}-x")
    one([first], f"there is no topic {topic}-x")
    one([second], f"there is no topic {dead}-x")
    one(await asked_of_kafka(broker.brokers, topic, dead_letters=topic), "use two topics")


async def test_each_missing_right_is_named(broker: Kafka) -> None:
    """Each right that reading a topic, and writing to that of a channel, needs; `check` reads and writes nothing."""
    topic, dead, out = (new_topic(broker, name) for name in ("t", "dead", "out"))
    one(await asked_of_kafka(broker.guarded, topic, **login(broker, "guest", WRONG)), "uthentication")

    async def asked() -> Sequence[str]:
        return await asked_of_kafka(broker.guarded, topic, group=topic, dead_letters=dead, **login(broker))

    async def until_asked(*rights: str, ask: Callable[[], Awaitable[Sequence[str]]] = asked) -> None:
        """Wait until these are missing: a broker applies a granted right with a delay."""

        async def check() -> bool:
            problems = await ask()
            assert len(problems) == len(rights), problems
            for problem, right in zip(problems, rights, strict=True):
                one([problem], right)
            return True

        await until_some(check)

    given = {"type": "kafka", "bootstrap_servers": [broker.guarded], "topic": out, "timeout": "5s"}
    config = kafka_channel.Config.model_validate({**given, **login(broker)})
    channel = kafka_channel.build("records", config, {"late": kafka_channel.Options(topic=out)})
    read, write, group = f"READ on the topic {topic}", f"WRITE on the topic {dead}", f"READ on the group {topic}"
    for name in (topic, dead, out):
        allow(broker, "guest", "DESCRIBE", name)
    await until_asked(read, write, group)
    refused = f"may not write to the topic {out}; give the user the right to WRITE"
    try:
        await until_asked(refused, ask=channel.verify)
        allow(broker, "guest", "READ", topic)
        allow(broker, "guest", "WRITE", dead)
        allow(broker, "guest", "WRITE", out)
        await until_asked(group)
        await until_asked(ask=channel.verify)
    finally:
        await channel.close()
    allow(broker, "guest", "DESCRIBE", topic, of="GROUP")
    assert (await asked())[0].endswith(f"the right to {group}")
    allow(broker, "guest", "READ", topic, of="GROUP")
    await until_asked()


# An events table.


@pytest.fixture(scope="module")
def guarded(server: Postgres) -> Postgres:
    """The server, which asks the role `guarded` for its password."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        [[rules]] = admin.execute("SHOW hba_file").fetchall()
        admin.execute(sql.SQL("CREATE ROLE guarded LOGIN PASSWORD {}").format(RIGHT))
    Path(rules).write_text("local all guarded scram-sha-256\n" + Path(rules).read_text("ascii"), encoding="ascii")
    server.stop()
    server.start()
    return server


@pytest.fixture
async def database(guarded: Postgres) -> AsyncIterator[Database]:
    async with guarded.database() as made:
        yield made


def as_guarded(database: Database, password: str = RIGHT) -> dict[str, str]:
    return {"dsn": make_conninfo(database.dsn, user="guarded", password=password)}


async def asked_of_table(database: Database, **given: Any) -> list[str]:
    return await events_table.source(database, **given).verify(["late"])


FIX = "; run the SQL that `tocsin sql shop --existing` prints"


@needs_login
@pytest.mark.parametrize("given", [{"key": "customer", "time": "at"}, {"after": "delete"}])
async def test_each_part_of_printed_sql_is_needed(database: Database, given: dict[str, Any]) -> None:
    guarded = {**given, **as_guarded(database)}
    created = FIX.replace(" --existing", "")
    assert one(await asked_of_table(database, **guarded), 'relation "events" does not exist').endswith(created)
    await database.run(postgres_events.new_table(events_table.settings(database, **guarded)))
    await database.run("INSERT INTO events (name) VALUES ('late')")
    assert await asked_of_table(database, **guarded) == []
    assert await database.run("SELECT handled_at, handled_as FROM events") == [(None, None)]
    one(await asked_of_table(database, **as_guarded(database, WRONG)), "password authentication failed")

    for right in ("DELETE" if "after" in given else "UPDATE (handled_as)", "UPDATE (handled_at)", "SELECT"):
        await database.run(f"REVOKE {right} ON events FROM guarded")
        problem = one(await asked_of_table(database, **guarded), "permission denied for table events")
        assert problem.endswith(FIX)
        await database.run(f"GRANT {right} ON events TO guarded")
    assert await asked_of_table(database, **guarded) == []


@needs_login
async def test_missing_columns_and_marks_are_reported(database: Database) -> None:
    await database.run("CREATE TABLE events (id serial PRIMARY KEY, name text)")
    one(await asked_of_table(database, key="customer"), "no column customer; add it, or name another one with `key`")
    one(await asked_of_table(database), "no column handled_at and no column handled_as", FIX)


# The command.


async def test_unreachable_source_is_reported_once_with_its_line(tmp_path: Path) -> None:
    away = {"postgres": free_port(), "rabbitmq": free_port(), "kafka": free_port()}
    at = {"host": "127.0.0.1", "user": "u", "password": RIGHT, "connect_timeout": "2s"}
    brokers = {"type": "kafka", "bootstrap_servers": [f"127.0.0.1:{away['kafka']}"], "connect_timeout": "2s"}
    sources = {
        "table": {"type": "postgres_events", "port": away["postgres"], **at},
        "letters": {"type": "rabbitmq", "port": away["rabbitmq"], "queue": "q", **at},
        "records": brokers,
        "rows": {**brokers, "state": True, "columns": {"n": "text"}},
        "posted": {"type": "http", "token": RIGHT},
    }
    alerts = {f"{name}_{number}": {"source": name, "notify": ["out"]} for name in sources for number in (1, 2)}
    for name in ("rows_1", "rows_2"):
        alerts[name]["topic"] = name
    file = write(
        tmp_path / "tocsin.yaml", {"sources": sources, "channels": {"out": {"type": "console"}}, "alerts": alerts}
    )
    status, output, errors = await command(tmp_path, "check", "--online", "--json", "--config", str(file))
    assert (status, errors) == (1, "")
    assert RIGHT not in output
    found = json.loads(output)["problems"]
    assert sorted(problem["path"] for problem in found) == [
        f"sources.{name}" for name in sorted({*sources} - {"posted"})
    ]
    lines = file.read_text(encoding="utf-8").splitlines()
    for problem in found:
        assert problem["path"].removeprefix("sources.") in lines[problem["line"] - 1]
