"""A real Apache Kafka for tests: one process, broker and controller in one, from the jars that Maven has.

The jars (57, 46 MB) are fetched once and stay in the user's cache.
"""

import os
import shutil
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.prometheus import free_port

VERSION = "3.9.1"

_FETCH_S = 90.0
_SOON = 30.0
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
    """Fetch into a folder beside it, which is moved when it is whole: another test run may do the same."""
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
    """A broker that can be started, stopped and killed. What it was told stays in `folder`, and so does its port."""

    def __init__(self, folder: Path) -> None:
        """Format the storage. Nothing listens yet."""
        self._folder = folder
        self._classes = f"{jars()}{os.sep}*"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._properties = folder / "server.properties"
        self._properties.write_text(self._settings(controller=free_port()), encoding="utf-8")
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties)),
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

    def kill(self) -> None:
        """End it at once, as a crash does."""
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
        return "\n".join(
            (
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@127.0.0.1:{controller}",
                f"listeners=PLAINTEXT://{self.brokers},CONTROLLER://127.0.0.1:{controller}",
                f"advertised.listeners=PLAINTEXT://{self.brokers}",
                "controller.listener.names=CONTROLLER",
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                f"log.dirs={self._folder / 'data'}",
                "auto.create.topics.enable=false",  # the producer is to make its topics itself
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=1",
                "group.initial.rebalance.delay.ms=0",
                "broker.session.timeout.ms=2000",  # so long its successor is refused after a kill
                "",
            )
        )


@contextmanager
def kafka(folder: Path) -> Iterator[Kafka]:
    """A Kafka that is not started yet; it is gone afterwards."""
    broker = Kafka(folder)
    try:
        yield broker
    finally:
        broker.kill()
