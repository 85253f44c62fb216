"""The stack in a Docker engine: its replacements, commands and containers."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from support import kafka
from support.ports import free_port
from support.waiting import seen

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
BASE = "python:3.13-slim"
PROJECT = "tocsin-rehearsal"
LABEL = "tocsin.rehearsal"
REPLACEMENTS = {
    "redpanda": "broker",
    "materialized": "materialized",
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "postgres": "postgres",
    "redis": "redis",
    "mongodb": "bystander",
    "novu-api": "novu",
    "novu-worker": "bystander",
}
LASTING = ("redpanda", "producer", "materialized", "exporter", "inbox", "prometheus", "alertmanager")
PORTS = (
    *("TOCSIN", "TOCSIN_2", "INBOX", "PROMETHEUS", "ALERTMANAGER", "REDPANDA", "MATERIALIZE", "MATERIALIZE_CONSOLE"),
    "NOVU_API",
)
PATIENCE_S = 240

_COMPOSE = (
    *("docker", "compose", "--project-name", PROJECT, "--project-directory", str(ROOT), "--env-file", os.devnull),
)
_FILES = (ROOT / "docker-compose.yml", HERE / "compose.yaml")
_TWO_FILES = (ROOT / "docker-compose.ha.yml", HERE / "compose.ha.yaml")

Done = subprocess.CompletedProcess[str]


class SkipError(Exception):
    """Why a rehearsal is not possible."""


class FailureError(Exception):
    """What failed."""


@dataclass(frozen=True, slots=True)
class Stack:
    """docker-compose.yml of this rehearsal, without `.env`.

    Args:
        ports: name of a port's variable without `_PORT` -> port on 127.0.0.1.
        jars: the folder of Apache Kafka's jars.
        files: the files for Compose, each added to those before it.
    """

    ports: Mapping[str, int]
    jars: Path
    files: tuple[Path, ...] = _FILES

    @property
    def with_two(self) -> "Stack":
        """The same with docker-compose.ha.yml."""
        return replace(self, files=(*_FILES, *_TWO_FILES))

    def compose(self, *arguments: str, **environ: str) -> Done:
        """Run `docker compose` with variables as from an `.env`. Raises FailureError."""
        done = self.tried(*arguments, **environ)
        _succeeded(("compose", *arguments), done)
        return done

    def tried(self, *arguments: str, **environ: str) -> Done:
        """As `compose`, where failing is a result too."""
        return subprocess.run(self._command(arguments), env=self._environ(environ), capture_output=True, text=True)

    def begin(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """As `compose`, without waiting for its end. All output is on standard output."""
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        command = self._command(arguments)
        return subprocess.Popen(command, env=self._environ(environ), stdout=pipe, stderr=both, text=True)

    def up(self, *services: str, **environ: str) -> float:
        """Start services, all by default, and wait until they are healthy. Returns how long that took, in seconds."""
        started = time.monotonic()
        wanted = services or (*LASTING, "setup")
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(PATIENCE_S), *wanted, **environ)
        return time.monotonic() - started

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name.upper()]}"

    def container(self, service: str) -> str:
        """Its id; empty if it does not exist."""
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()

    def state(self, service: str, field: str) -> str:
        return inspect(self.container(service), field)

    def healthy(self, *services: str) -> bool:
        """Whether these services run and are healthy; all by default."""
        found = [json.loads(line) for line in self.compose("ps", "--format", "json").stdout.splitlines()]
        running = {each["Service"] for each in found if (each["State"], each["Health"]) == ("running", "healthy")}
        return running >= {*(services or LASTING)}

    def logs(self, service: str, **environ: str) -> str:
        return self.compose("logs", "--no-log-prefix", service, **environ).stdout

    def kill(self, service: str) -> None:
        """SIGKILL from outside, as by the kernel. `docker kill` would count as stopped by hand: no restart follows."""
        pid = self.state(service, ".State.Pid")
        os.kill(int(pid), signal.SIGKILL)
        until(f"the end of {service}", lambda: self.state(service, ".State.Pid") != pid, 10)

    def pinned(self) -> dict[str, str]:
        """Service -> the image whose name a replacement takes."""
        config = self.with_two.compose("config", "--format", "json", COMPOSE_PROFILES="novu").stdout
        services = json.loads(config)["services"]
        return {service: services[service]["image"] for service in REPLACEMENTS}

    def clear(self) -> None:
        """Remove containers, networks and volumes."""
        self.with_two.tried("down", "--volumes", "--timeout", "5", COMPOSE_PROFILES="novu")

    def _command(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        return (*_COMPOSE, *(part for file in self.files for part in ("--file", str(file))), *arguments)

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            **{f"{name}_PORT": str(port) for name, port in self.ports.items()},
            "TOCSIN_PRODUCER_BID_RATE": "5",
            "COMPOSE_PROFILES": "",
            "REHEARSAL_JARS": str(self.jars),
            **more,
        }


def prepare() -> Stack:
    """Build the replacements and give them the pinned names. Raises SkipError if a part of them is missing."""
    try:
        if docker("info").returncode:
            raise SkipError("no Docker engine answers")
    except FileNotFoundError:
        raise SkipError("docker is not installed") from None
    if docker("compose", "version").returncode:
        raise SkipError("docker compose is not installed")
    if os.geteuid() != 0:
        raise SkipError("only root can kill processes in containers")
    if docker("image", "inspect", BASE).returncode and docker("pull", "--quiet", BASE).returncode:
        raise SkipError(f"the base image {BASE} is neither here nor can it be pulled")
    try:
        stack = Stack({name: free_port() for name in PORTS}, kafka.jars())
    except pytest.skip.Exception as reason:
        raise SkipError(f"no broker: {reason}") from None
    pinned = stack.pinned()
    for image in pinned.values():
        label = docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image)
        if not label.returncode and not label.stdout.strip():
            raise SkipError(f"{image} is here, and may be the real one: docker compose up needs no rehearsal")
    for service, target in REPLACEMENTS.items():
        name = f"{PROJECT}:{target}"
        options = ("--quiet", "--network", "host", "--label", f"{LABEL}=1", "--target", target, "--tag", name)
        for command in (("build", *options, str(HERE)), ("tag", name, pinned[service])):
            _succeeded(command, docker(*command))
    stack.clear()
    return stack


def give_back(stack: Stack) -> None:
    """Remove the pinned names of the replacements."""
    for image in stack.pinned().values():
        docker("rmi", "--no-prune", image)


def inspect(what: str, field: str) -> str:
    return docker("inspect", "--format", f"{{{{{field}}}}}", what).stdout.strip()


def docker(*arguments: str) -> Done:
    return subprocess.run(("docker", *arguments), capture_output=True, text=True)


def _succeeded(command: tuple[str, ...], done: Done) -> None:
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise FailureError(f"docker {' '.join(command)}: status {done.returncode}\n{output}")


def until(what: str, condition: Callable[[], Any], seconds: float = 30) -> float:
    """Wait for a condition. Returns how long it took. Raises FailureError if it was not met in time."""
    started = time.monotonic()
    try:
        seen(condition, what, seconds)
    except AssertionError as error:
        raise FailureError(str(error)) from None
    return time.monotonic() - started


def check(condition: bool, otherwise: str) -> None:
    if not condition:
        raise FailureError(otherwise)


def report(line: str) -> None:
    print(f"  {line}", flush=True)
