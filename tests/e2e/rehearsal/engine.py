"""The stack in a Docker engine: its replacements, commands and containers."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import kafka
from support.prometheus import free_port
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
    "redis": "redis",
    "mongodb": "bystander",
    "novu-api": "novu",
    "novu-worker": "bystander",
}
OWN = ("exporter", "producer", "inbox")
LASTING = ("redpanda", "producer", "materialized", "exporter", "inbox", "prometheus", "alertmanager")
SERVICES = (*LASTING, "setup")
PORTS = (
    *("TOCSIN", "INBOX", "PROMETHEUS", "ALERTMANAGER", "REDPANDA", "MATERIALIZE", "MATERIALIZE_CONSOLE"),
    "NOVU_API",
)
PATIENCE_S = 240

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
    """

    ports: Mapping[str, int]
    jars: Path

    def compose(self, *arguments: str, **environ: str) -> Done:
        """Run `docker compose` with variables as from an `.env`.

        Raises:
            FailureError: it did not succeed.
        """
        return run(*_COMPOSE, *arguments, environ=self._environ(environ))

    def tried(self, *arguments: str, **environ: str) -> Done:
        """As `compose`, where failing is a result too."""
        return quiet(*_COMPOSE, *arguments, environ=self._environ(environ))

    def begin(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """As `compose`, without waiting for its end. All output is on standard output."""
        command = (*_COMPOSE, *arguments)
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        return subprocess.Popen(command, env=self._environ(environ), stdout=pipe, stderr=both, text=True)

    def up(self, *services: str, **environ: str) -> float:
        """Start services, all by default, and wait until they are healthy. Returns how long that took, in seconds."""
        started = time.monotonic()
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(PATIENCE_S), *(services or SERVICES), **environ)
        return time.monotonic() - started

    def down(self) -> None:
        self.compose("down", "--timeout", "10")

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name.upper()]}"

    def container(self, service: str) -> str:
        """Its id; empty if it does not exist."""
        return self.compose("ps", "--all", "--quiet", service).stdout.strip()

    def state(self, service: str, field: str) -> str:
        return inspect(self.container(service), field)

    def healthy(self) -> set[str]:
        """The services that run and are healthy."""
        found = [json.loads(line) for line in self.compose("ps", "--format", "json").stdout.splitlines()]
        return {each["Service"] for each in found if (each["State"], each["Health"]) == ("running", "healthy")}

    def is_healthy(self, service: str) -> bool:
        return service in self.healthy()

    def all_healthy(self) -> bool:
        return self.healthy() >= {*LASTING}

    def logs(self, service: str, **environ: str) -> str:
        """The log of a container."""
        return self.compose("logs", "--no-log-prefix", service, **environ).stdout

    def kill(self, service: str) -> None:
        """SIGKILL from outside, as by the kernel. `docker kill` would count as stopped by hand: no restart follows."""
        pid = self.state(service, ".State.Pid")
        os.kill(int(pid), signal.SIGKILL)
        until(f"the end of {service}", lambda: self.state(service, ".State.Pid") != pid, 10)

    def pinned(self) -> dict[str, str]:
        """Service -> the image whose name a replacement takes."""
        services = json.loads(self.compose("config", "--format", "json", COMPOSE_PROFILES="novu").stdout)["services"]
        return {service: services[service]["image"] for service in REPLACEMENTS}

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        return {
            **os.environ,
            **{f"{name}_PORT": str(port) for name, port in self.ports.items()},
            "TOCSIN_PRODUCER_BID_RATE": "5",
            "COMPOSE_PROFILES": "",
            "REHEARSAL_JARS": str(self.jars),
            **more,
        }


_COMPOSE = (
    *("docker", "compose", "--project-name", PROJECT, "--project-directory", str(ROOT), "--env-file", os.devnull),
    *("--file", str(ROOT / "docker-compose.yml"), "--file", str(HERE / "compose.yaml")),
)


def prepare() -> Stack:
    """Build the replacements and give them the pinned names.

    Raises:
        SkipError: there is no engine, or a part of the replacements is missing.
    """
    if quiet("docker", "info").returncode:
        raise SkipError("no Docker engine answers")
    if quiet("docker", "compose", "version").returncode:
        raise SkipError("docker compose is not installed")
    if os.geteuid() != 0:
        raise SkipError("only root can kill processes in containers")
    if quiet("docker", "image", "inspect", BASE).returncode and quiet("docker", "pull", "--quiet", BASE).returncode:
        raise SkipError(f"the base image {BASE} is neither here nor can it be pulled")
    try:
        stack = Stack({name: free_port() for name in PORTS}, kafka.jars())
    except pytest.skip.Exception as reason:
        raise SkipError(f"no broker: {reason}") from None
    pinned = stack.pinned()
    for image in pinned.values():
        label = quiet("docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image)
        if not label.returncode and not label.stdout.strip():
            raise SkipError(f"{image} is here, and may be the real one: docker compose up needs no rehearsal")
    for service, target in REPLACEMENTS.items():
        name = f"{PROJECT}:{target}"
        marked = ("--label", f"{LABEL}=1", "--target", target, "--tag", name)
        run("docker", "build", "--quiet", "--network", "host", *marked, str(HERE))
        run("docker", "tag", name, pinned[service])
    clear(stack)
    return stack


def clear(stack: Stack) -> None:
    """Remove containers, networks and volumes."""
    stack.tried("down", "--volumes", "--timeout", "5", COMPOSE_PROFILES="novu")


def give_back(stack: Stack) -> None:
    """Remove the pinned names of the replacements."""
    for image in stack.pinned().values():
        quiet("docker", "rmi", "--no-prune", image)


def inspect(what: str, field: str) -> str:
    return quiet("docker", "inspect", "--format", f"{{{{{field}}}}}", what).stdout.strip()


def quiet(*command: str, environ: Mapping[str, str] | None = None) -> Done:
    try:
        return subprocess.run(command, env=environ, capture_output=True, text=True)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def run(*command: str, environ: Mapping[str, str] | None = None) -> Done:
    done = quiet(*command, environ=environ)
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        shown = command[len(_COMPOSE) :] if command[: len(_COMPOSE)] == _COMPOSE else command[1:]
        raise FailureError(f"docker {' '.join(shown)}: status {done.returncode}\n{output}")
    return done


def until(what: str, condition: Callable[[], Any], seconds: float = 30) -> float:
    """Wait for a condition. Returns how long it took.

    Raises:
        FailureError: it was not met in time.
    """
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
