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
from typing import Any

import pytest
import trustme
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives import serialization

from support.downloads import cached, run
from support.ports import free_port
from support.shared import guard, shared
from support.waiting import seen

VERSION, NEWEST = "3.9.1", "4.4.0"

USERS = {"admin": "S3CR3T-and-quite-long", "guest": "S3CR3T-of-the-guest", "stranger": "S3CR3T-of-the-stranger"}
"""Name -> password. No test lets the stranger write anything."""

_SOON = 60.0
_CLASSES = "classes.jsa"
_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tocsin</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>VERSION</version>
  </dependency></dependencies>
</project>
"""


def jars(version: str = VERSION) -> Path:
    """The folder of the jars. Skips the test where they cannot be had."""
    if shutil.which("java") is None:
        pytest.skip("java is not on the PATH")
    return cached(f"kafka-{version}", functools.partial(_fetch, version), "mvn")


def _fetch(version: str, new: Path, _: Path) -> None:
    (new / "pom.xml").write_text(_POM.replace("VERSION", version), encoding="utf-8")
    run("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={new}", cwd=new)


def _classes(version: str) -> Path:
    """The classes of a broker as Java has them in memory. With this file a start takes half the time."""
    return cached(f"kafka-{version}-classes", functools.partial(_dump, version), "java") / _CLASSES


def _dump(version: str, new: Path, _: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tocsin-kafka-") as folder:
        broker = Kafka(Path(folder), version)
        broker.start(dump=new / _CLASSES)
        broker.end(signal.SIGTERM)


class Kafka:
    """A broker that can be started, killed and frozen. Its data and ports are kept in `folder`.

    Anyone may do anything at `brokers`. At `guarded`, over TLS, the users log in, and only `admin` has rights.
    """

    def __init__(self, folder: Path, version: str = VERSION, **settings: str) -> None:
        """`settings`: of the broker, with `_` for a dot. Nothing listens yet."""
        self._folder = folder
        self._version, self._jars = version, f"{jars(version)}{os.sep}*"
        self._process: subprocess.Popen[bytes] | None = None
        self.brokers = f"127.0.0.1:{free_port()}"
        self.guarded = f"127.0.0.1:{free_port()}"
        self.authority = folder / "ca.pem"
        _certify(self.authority, folder / "broker.pem")
        (folder / "server.properties").write_text(self._properties(settings), encoding="utf-8")
        if version != VERSION:
            # Without it a broker of today has the features of an old one.
            tool = ("java", "-cp", self._jars, "kafka.tools.StorageTool", "format", "--cluster-id", _id())
            run(*tool, "--config", str(folder / "server.properties"), cwd=folder)
            return
        # What the tool writes, without another Java.
        (folder / "data").mkdir()
        ids = f"cluster.id={_id()}\nnode.id=1\ndirectory.id={_id()}"
        (folder / "data" / "meta.properties").write_text(f"version=1\n{ids}\n", encoding="utf-8")

    def start(self, *guard: str, dump: Path | None = None) -> None:
        """Start, and wait until it listens. `dump`: where to write its classes when it ends."""
        assert not self.runs
        classes = f"-XX:ArchiveClassesAtExit={dump}" if dump else f"-XX:SharedArchiveFile={_classes(self._version)}"
        java = ("java", classes, "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", self._jars)
        log = self._folder / "kafka.log"
        with log.open("ab") as words:
            command = (*guard, *java, "kafka.Kafka", str(self._folder / "server.properties"))
            self._process = subprocess.Popen(command, stdout=words, stderr=words, start_new_session=True)
        seen(self._listens, f"Kafka that listens: {log}", _SOON)

    @property
    def runs(self) -> bool:
        return self._process is not None

    def freeze(self) -> None:
        """Stop its process until `thaw`: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> None:
        """Send it a signal that ends it, and wait for its end."""
        assert self._process is not None
        self._signal(number)
        self._process.wait(timeout=_SOON)
        self._process = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "kafka.log").read_text(encoding="utf-8")[-2000:]
        host, _, port = self.brokers.partition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return True
        return False

    def _properties(self, settings: Mapping[str, str]) -> str:
        controller = f"127.0.0.1:{free_port()}"
        users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        return "\n".join(
            (
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@{controller}",
                f"listeners=PLAINTEXT://{self.brokers},CONTROLLER://{controller},GUARDED://{self.guarded}",
                "controller.listener.names=CONTROLLER",
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL",
                "sasl.enabled.mechanisms=PLAIN",
                f"listener.name.guarded.plain.sasl.jaas.config={login} {users};",
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users=User:admin;User:ANONYMOUS",
                "ssl.keystore.type=PEM",
                f"ssl.keystore.location={self._folder / 'broker.pem'}",
                f"log.dirs={self._folder / 'data'}",
                "auto.create.topics.enable=false",  # the producer is to make its topics itself
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=1",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "transaction.state.log.num.partitions=1",
                "group.initial.rebalance.delay.ms=0",
                "group.min.session.timeout.ms=1000",
                *(f"{name.replace('_', '.')}={value}" for name, value in settings.items()),
                "",
            )
        )


def _id() -> str:
    # The storage tool takes an id with a leading dash for an option.
    return "t" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:].rstrip("=")


def _certify(authority: Path, broker: Path) -> None:
    """Write the certificate of an authority, and the broker's key and certificate in one file as Kafka expects."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(authority))
    certificate = made.issue_cert("127.0.0.1")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    raw = key.private_bytes(serialization.Encoding.PEM, *form)
    broker.write_bytes(raw + b"".join(pem.bytes() for pem in certificate.cert_chain_pems))


@contextmanager
def kafka(folder: Path, **settings: str) -> Iterator[Kafka]:
    """A Kafka that is not started yet; it is killed at the end."""
    broker = Kafka(folder, **settings)
    try:
        yield broker
    finally:
        broker.kill()


@functools.cache
def shared_kafka(version: str = VERSION) -> Kafka:
    """The running Kafka of a version that all tests share. Each test uses topics and groups of its own, and grants
    rights to those only."""

    def start(folder: Path) -> Kafka:
        # The heartbeat of a group with the protocol `consumer` is the brokers' choice.
        quick = {"group_consumer_min_heartbeat_interval_ms": "100", "group_consumer_heartbeat_interval_ms": "200"}
        broker = Kafka(folder, version, **quick)
        broker.start(*guard())
        return broker

    return shared(f"kafka-{version}", start)


breaks_kafka = pytest.mark.xdist_group("breaks kafka")
"""For the tests that use `breakable_kafka`: one process runs them."""


@functools.cache
def breakable_kafka() -> Kafka:
    """The Kafka that tests may kill and freeze. It may run or not. Each test uses topics and groups of its own."""
    folder = tempfile.TemporaryDirectory(prefix="tocsin-kafka-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    # After a kill, its successor is refused for as long as a session.
    broker = Kafka(Path(folder.name), broker_session_timeout_ms="2000", broker_heartbeat_interval_ms="250")
    atexit.register(broker.kill)
    return broker


def login(broker: Kafka, user: str = "guest", password: str | None = None) -> dict[str, Any]:
    """The settings with which a user logs in at `guarded`."""
    sasl = {"sasl_mechanism": "PLAIN", "sasl_username": user, "sasl_password": password or USERS[user]}
    return {"tls": True, "tls_ca": broker.authority, **sasl}


def new_topic(broker: Kafka, name: str = "t", *, partitions: int = 1, **settings: str) -> str:
    """Create a topic with a unique name that begins with `name`. Settings are written with `_` for a dot."""
    topic = f"{name}-{uuid.uuid4().hex[:8]}"
    make_topic(broker, topic, partitions=partitions, **settings)
    return topic


def make_topic(broker: Kafka, topic: str, *, partitions: int = 1, **settings: str) -> None:
    """Create a topic, and wait until clients can use it."""
    config = {name.replace("_", "."): value for name, value in settings.items()}
    admin = _admin(broker.brokers)
    _done(admin.create_topics([NewTopic(topic, partitions, 1, config=config)]))

    def led() -> bool:
        found = admin.list_topics(topic, timeout=_SOON).topics[topic].partitions
        return len(found) == partitions and all(partition.leader >= 0 for partition in found.values())

    seen(led, f"the topic {topic}", _SOON)


def drop_topic(broker: Kafka, topic: str) -> None:
    """Delete a topic."""
    _done(_admin(broker.brokers).delete_topics([topic]))


def allow(broker: Kafka, user: str, operation: str, name: str, *, of: str = "TOPIC") -> None:
    """Allow a user an operation (`READ`) on a topic, or on another kind of resource (`of`: `GROUP`)."""
    kind, allowed = ResourceType[of], AclPermissionType.ALLOW
    right = AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", AclOperation[operation], allowed)
    _done(_admin(broker.brokers).create_acls([right]))


@functools.cache
def _admin(brokers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": brokers, "log_level": 2})


def _done(answers: Mapping[Any, Any]) -> None:
    for answer in answers.values():
        answer.result(timeout=_SOON)


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


def committed(broker: Kafka, group: str, topic: str, partitions: int = 1) -> list[int]:
    """Return the committed offsets of a group, by partition; negative without any."""
    return [place.offset for place in places(broker, group, topic, partitions)]


def places(broker: Kafka, group: str, topic: str, partitions: int = 1) -> list[TopicPartition]:
    """Return the committed offsets of a group with their metadata."""
    settings = {"bootstrap.servers": broker.brokers, "group.id": group, "log_level": 2}
    with closing(Consumer(settings)) as consumer:
        return consumer.committed([TopicPartition(topic, number) for number in range(partitions)], timeout=_SOON)
