"""A real Apache Kafka for tests: one process, broker and controller in one, from the jars that Maven has; and what
tests ask of it.

The jars (57, 46 MB) are fetched once and stay in the user's cache.
"""

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from support.prometheus import free_port

VERSION = "3.9.1"

_FETCH_S = 300.0
_SOON = 60.0
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tocsin</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""


def jars() -> Path:
    """The folder of the jars. Skips the test where they cannot be had."""
    if shutil.which("java") is None:
        pytest.skip("java is not on the PATH")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tocsin-tests"
    folder = cache / f"kafka-{VERSION}"
    if not folder.is_dir():
        if shutil.which("mvn") is None:
            pytest.skip("mvn, which would fetch Kafka, is not on the PATH")
        cache.mkdir(parents=True, exist_ok=True)
        _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    """Download into a temporary folder, then move it: another test run may do the same."""
    new = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    new.mkdir()
    try:
        (new / "pom.xml").write_text(_POM, encoding="utf-8")
        command = ("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={new}")
        try:
            done = subprocess.run(command, cwd=new, capture_output=True, text=True, timeout=_FETCH_S, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"Maven did not fetch Kafka {VERSION} within {_FETCH_S:g} s")
        if done.returncode:
            pytest.skip(f"Maven cannot fetch Kafka {VERSION}: {(done.stdout + done.stderr).strip()[-300:]}")
        with suppress(OSError):
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


class Kafka:
    """A broker that can be started, stopped and killed. Its data and port are kept in `folder`."""

    def __init__(
        self, folder: Path, users: Mapping[str, str] | None = None, *, tls: bool = False, **settings: str
    ) -> None:
        """Format the storage. Nothing listens yet.

        `users`: name -> password of those who may log in, with PLAIN, at `guarded`; there only `admin` may do anything.
        `tls`: connections to there are encrypted, with `certificate`. `settings`: of the broker, with `_` for a dot.
        """
        self.certificate = _certificate(folder) if tls else None
        self._folder = folder
        self._users = users
        self._further = [f"{name.replace('_', '.')}={value}" for name, value in settings.items()]
        self._classes = f"{jars()}{os.sep}*"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.guarded = f"127.0.0.1:{free_port()}"
        self._properties = folder / "server.properties"
        self._properties.write_text(self._settings(controller=free_port()), encoding="utf-8")
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(self._properties)),
            capture_output=True,
            text=True,
            timeout=_SOON,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        assert self._process is None
        log = self._folder / "kafka.log"
        with log.open("ab") as words:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)), stdout=words, stderr=words
            )
        deadline = time.monotonic() + _SOON
        while not self._listens():
            assert self._process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
            assert time.monotonic() < deadline, "Kafka does not listen"
            time.sleep(0.05)

    def freeze(self) -> None:
        """Stop its process until `thaw`: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=_SOON)
            self._process = None

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _java(self, *arguments: str) -> tuple[str, ...]:
        java = shutil.which("java")
        assert java is not None
        return (java, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-cp", self._classes, *arguments)

    def _settings(self, controller: int) -> str:
        listeners = f"PLAINTEXT://{self.brokers},CONTROLLER://127.0.0.1:{controller}"
        protocol = "SASL_SSL" if self.certificate else "SASL_PLAINTEXT"
        guarded: tuple[str, ...] = ()
        if self._users is not None:
            listeners += f",GUARDED://{self.guarded}"
            users = " ".join(f'user_{name}="{password}"' for name, password in self._users.items())
            login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
            guarded = (
                "sasl.enabled.mechanisms=PLAIN",
                f"listener.name.guarded.plain.sasl.jaas.config={login} {users};",
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users=User:admin;User:ANONYMOUS",
            )
        if self.certificate is not None:
            guarded += ("ssl.keystore.type=PEM", f"ssl.keystore.location={self.certificate.with_suffix('.key')}")
        return "\n".join(
            (
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@127.0.0.1:{controller}",
                f"listeners={listeners}",
                "controller.listener.names=CONTROLLER",
                f"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:{protocol}",
                *guarded,
                f"log.dirs={self._folder / 'data'}",
                "auto.create.topics.enable=false",  # the producer is to make its topics itself
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=1",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "transaction.state.log.num.partitions=1",
                "group.initial.rebalance.delay.ms=0",
                "broker.session.timeout.ms=2000",  # after a kill, its successor is refused for this long
                "broker.heartbeat.interval.ms=250",  # a larger interval loses the session of a busy broker
                *self._further,
                "",
            )
        )


def _certificate(folder: Path) -> Path:
    """Make a certificate for this machine, with its key in one file as Kafka expects."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on the PATH")
    made = folder / "broker.pem"
    arguments = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=broker")
    files = ("-keyout", str(made.with_suffix(".key")), "-out", str(made), "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run(("openssl", *arguments, *files), check=True, capture_output=True)
    with made.with_suffix(".key").open("a", encoding="ascii") as both:
        both.write(made.read_text(encoding="ascii"))
    return made


@contextmanager
def kafka(
    folder: Path, users: Mapping[str, str] | None = None, *, tls: bool = False, **settings: str
) -> Iterator[Kafka]:
    """A Kafka that is not started yet; it is deleted at the end."""
    broker = Kafka(folder, users, tls=tls, **settings)
    try:
        yield broker
    finally:
        broker.kill()


@functools.cache
def shared_kafka() -> Kafka:
    """The running Kafka that the tests of this process share. Each test uses topics of its own."""
    folder = tempfile.TemporaryDirectory(prefix="tocsin-kafka-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    broker = Kafka(Path(folder.name))
    atexit.register(broker.kill)
    broker.start()
    return broker


def new_topic(broker: Kafka, name: str = "t", *, partitions: int = 1, **settings: str) -> str:
    """Create a topic with a unique name that begins with `name`. Settings are written with `_` for a dot."""
    topic = f"{name}-{uuid.uuid4().hex[:8]}"
    make_topic(broker, topic, partitions=partitions, **settings)
    return topic


def make_topic(broker: Kafka, topic: str, *, partitions: int = 1, **settings: str) -> None:
    """Create a topic."""
    config = {name.replace("_", "."): value for name, value in settings.items()}
    admin = AdminClient({"bootstrap.servers": broker.brokers, "log_level": 2})
    [done] = admin.create_topics([NewTopic(topic, partitions, 1, config=config)]).values()
    done.result(timeout=_SOON)


def drop_topic(broker: Kafka, topic: str) -> None:
    """Delete a topic."""
    admin = AdminClient({"bootstrap.servers": broker.brokers, "log_level": 2})
    [done] = admin.delete_topics([topic]).values()
    done.result(timeout=_SOON)


def allow(broker: Kafka, user: str, operation: str, name: str = "*", *, of: str = "TOPIC") -> None:
    """Allow a user an operation (`READ`) on every topic, or on another kind of resource (`of`: `GROUP`)."""
    operation_, kind = AclOperation[operation], ResourceType[of]
    right = AclBinding(
        kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation_, AclPermissionType.ALLOW
    )
    admin = AdminClient({"bootstrap.servers": broker.brokers, "log_level": 2})
    [done] = admin.create_acls([right]).values()
    done.result(timeout=_SOON)


Sent = tuple[bytes | str | None, bytes | str | None] | tuple[bytes | str | None, bytes | str | None, int]
"""Key and value, and if need be the partition."""


def produce(broker: Kafka, topic: str, records: Iterable[Sent], headers: Mapping[str, bytes] | None = None) -> None:
    """Write records, and return when they are in the topic."""
    lost: list[KafkaError] = []
    settings = {"bootstrap.servers": broker.brokers, "linger.ms": 1, "log_level": 2, "message.max.bytes": 8_000_000}
    producer = Producer(settings)
    for key, value, *partition in records:
        producer.produce(
            topic,
            value=value,
            key=key,
            headers=dict(headers or {}),
            on_delivery=lambda error, _: None if error is None else lost.append(error),
            partition=partition[0] if partition else -1,
        )
        producer.poll(0)
    assert producer.flush(_SOON) == 0
    assert lost == []


def stored(broker: Kafka, topic: str) -> list[Message]:
    """Return the records of a topic: each partition in order."""
    found: dict[int, list[Message]] = {}
    settings = {
        "bootstrap.servers": broker.brokers,
        "group.id": "look",
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 20,
        "enable.auto.commit": False,
        "log_level": 2,
    }
    with closing(Consumer(settings)) as consumer:
        left = set(consumer.list_topics(topic, timeout=_SOON).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
        deadline = time.monotonic() + _SOON
        while left:
            assert time.monotonic() < deadline, f"no end of {topic}"
            message = consumer.poll(0.5)
            if message is None:
                continue
            error, partition = message.error(), message.partition()
            assert partition is not None
            if error is None:
                found.setdefault(partition, []).append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(partition)
    return [message for partition in sorted(found) for message in found[partition]]


def labels(broker: Kafka, group: str, topic: str, partitions: int = 1) -> list[str]:
    """Return the metadata of a group's offsets, by partition; empty without any."""
    return [place.metadata or "" for place in _committed(broker, group, topic, partitions)]


def committed(broker: Kafka, group: str, topic: str, partitions: int = 1) -> list[int]:
    """Return the committed offsets of a group, by partition; negative without any."""
    return [place.offset for place in _committed(broker, group, topic, partitions)]


def _committed(broker: Kafka, group: str, topic: str, partitions: int) -> list[TopicPartition]:
    settings = {"bootstrap.servers": broker.brokers, "group.id": group, "log_level": 2}
    with closing(Consumer(settings)) as consumer:
        return consumer.committed([TopicPartition(topic, number) for number in range(partitions)], timeout=_SOON)
