"""Rehearse `docker compose up` where no image can be pulled.

The project's own images are built and run as docker-compose.yml says, and stand-ins take the pinned names of the others
(Dockerfile and compose.yaml beside this).

    tests/e2e/rehearsal/run              everything: three to five minutes
    tests/e2e/rehearsal/run --keep       leave the stack running, to look at it; a later run clears it away

Needs a Docker engine with Compose, the base image (python:3.13-slim, or one of that name), packages for pip and apt,
and root, to kill what runs in containers. Says "skipped" and why, with exit status 0, where that is not there. Grafana
and the profile `novu` are left out: there is nothing to stand in for them. What it started is gone afterwards, and so
are the names that the stand-ins borrowed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
BASE = "python:3.13-slim"
PROJECT = "tocsin-rehearsal"
LABEL = "tocsin.rehearsal"
STAND_INS = {
    "redpanda": "broker",
    "materialized": "materialized",
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
}
OWN = ("exporter", "producer", "inbox")
LASTING = ("redpanda", "producer", "materialized", "exporter", "inbox", "prometheus", "alertmanager")
SERVICES = (*LASTING, "setup")
PORTS = {
    "TOCSIN": 18627,
    "INBOX": 18925,
    "PROMETHEUS": 19090,
    "ALERTMANAGER": 19093,
    "REDPANDA": 29092,
    "MATERIALIZE": 16875,
    "MATERIALIZE_CONSOLE": 16874,
}
URL = {name.lower(): f"http://127.0.0.1:{port}" for name, port in PORTS.items()}
OWN_LAYERS_LIMIT = 110_000_000
"""What an image of ours may add to its base, which has some 125 MB: the whole stays below 250 MB."""

_COMPOSE = (
    *("docker", "compose", "--project-name", PROJECT, "--project-directory", str(ROOT), "--env-file", os.devnull),
    *("--file", str(ROOT / "docker-compose.yml"), "--file", str(HERE / "compose.yaml")),
)
_ENVIRON = {
    **os.environ,
    **{f"{name}_PORT": str(port) for name, port in PORTS.items()},
    "TOCSIN_PRODUCER_BID_RATE": "5",
    "COMPOSE_PROFILES": "",
}


class SkipError(Exception):
    """Why there is nothing to rehearse with."""


class FailureError(Exception):
    """What is not as it should be."""


# --- the parts ---


def prepare() -> None:
    """Stand-ins under the pinned names. Raises SkipError where that cannot be."""
    if _quiet("docker", "info").returncode:
        raise SkipError("no Docker engine answers")
    if _quiet("docker", "compose", "version").returncode:
        raise SkipError("docker compose is not installed")
    if os.geteuid() != 0:
        raise SkipError("only root can kill what runs in containers")
    if _quiet("docker", "image", "inspect", BASE).returncode and _quiet("docker", "pull", "--quiet", BASE).returncode:
        raise SkipError(f"the base image {BASE} is neither here nor can it be pulled")
    for image in _pinned().values():
        label = _quiet("docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image)
        if not label.returncode and not label.stdout.strip():
            raise SkipError(f"{image} is here, and may be the real one: docker compose up needs no rehearsal")
    for service, target in STAND_INS.items():
        name = f"{PROJECT}:{target}"
        marked = ("--label", f"{LABEL}=1", "--target", target, "--tag", name)
        _run("docker", "build", "--quiet", "--network", "host", *marked, str(HERE))
        _run("docker", "tag", name, _pinned()[service])


def images() -> None:
    """What the project's images are."""
    base = _size(BASE)
    for service in OWN:
        image = f"tocsin-{service}:local"
        added = _size(image) - base
        user = _inspect(image, ".Config.User")
        report(f"{image}: {added / 1e6:.0f} MB on top of the base, user {user}")
        check(added <= OWN_LAYERS_LIMIT, f"{image} adds {added} bytes")
        check(user == "10001:10001", f"{image} runs as {user}")


def sealed() -> None:
    """What a process in the exporter may do."""
    inside = "import os, shutil; print(os.getuid(), [t for t in ('gcc', 'cc', 'make') if shutil.which(t)])"
    said = _compose("exec", "-T", "exporter", "python", "-c", inside).stdout.strip()
    report(f"exporter: user and compilers: {said}")
    check(said == "10001 []", "the exporter should run as 10001, and have no compiler")
    tried = _quiet(*_COMPOSE, "exec", "-T", "--user", "0", "exporter", "touch", "/opt/x").stderr
    check("Read-only file system" in tried, f"the root is not read-only: {tried}")
    until("Prometheus's readings", lambda: prometheus('up{job=~"tocsin|producer"}') == ["1", "1"])
    named = ["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"]
    for line in _run(*named, *map(container, OWN)).stdout.splitlines():
        report(line.removeprefix(f"{PROJECT}-"))


def refused() -> None:
    """What a person meets who forgot something."""
    said = _quiet(*_COMPOSE, "--profile", "novu", "run", "--rm", "--no-deps", "novu-secrets")
    check(said.returncode == 1 and "NOVU_JWT_SECRET" in said.stderr + said.stdout, f"no secrets: {said}")


ROW = ["deployment_spike", "B", "warning", "bob", 11, 1]


def spike() -> None:
    """A row comes and goes, and both paths tell of it."""
    started = time.monotonic()
    tell("insert", "demo.organization_alert", ROW)
    until("the gauge", lambda: 'organization="B"' in gauges())
    until("the message of Novu", lambda: messages("deployment-spike", "bob"))
    report(f"row -> Novu's message: {time.monotonic() - started:.1f} s")
    until("the webhook", lambda: webhooks("audit"))
    until("Prometheus's reading", lambda: prometheus('organization_alert{organization="B"}') == ["11"])
    until("Alertmanager's message", lambda: alerts("firing"), 60)
    report(f"row -> Alertmanager's message: {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    tell("delete", "demo.organization_alert", ROW)
    until("the end of the gauge", lambda: 'organization="B"' not in gauges())
    until("the message of the end", lambda: messages("deployment-calm", "bob"))
    until("Alertmanager's message of the end", lambda: alerts("resolved"), 90)
    report(f"row gone -> Alertmanager's message: {time.monotonic() - started:.1f} s")


def killed_exporter() -> None:
    """What happens while the exporter is dead is told when it is back, once."""
    row = ["deployment_spike", "C", "warning", "cat", 12, 2]
    tell("insert", "demo.organization_alert", row)
    until("the message", lambda: messages("deployment-spike", "cat"))
    kill("exporter")
    tell("delete", "demo.organization_alert", row)
    started = time.monotonic()
    until("health", partial(_is_healthy, "exporter"), 60)
    report(f"exporter killed -> healthy: {time.monotonic() - started:.1f} s")
    until("the message of the end", lambda: messages("deployment-calm", "cat"))
    check('organization="C"' not in gauges(), "the gauge is not the view")
    for workflow in ("deployment-spike", "deployment-calm"):
        check(len(messages(workflow, "cat")) == 1, f"{workflow} came {len(messages(workflow, 'cat'))} times")


def killed_others() -> None:
    """Any other service comes back by itself, and the stack heals."""
    for service in LASTING[::-1]:
        if service == "exporter":
            continue
        started = time.monotonic()
        kill(service)
        until(f"{service} to be up again", partial(_is_healthy, service), 90)
        until("everything to be healthy", lambda: all(map(_is_healthy, LASTING)), 90)
        report(f"{service} killed -> all healthy: {time.monotonic() - started:.1f} s")
        if service == "redpanda":
            # By now Prometheus has read the producer since the broker's death, so what is more is new.
            until("events that the broker confirms again", partial(_more, delivered, delivered()), 60)
    row = ["deployment_spike", "D", "warning", "dan", 13, 3]
    tell("insert", "demo.organization_alert", row)
    until("the message", lambda: messages("deployment-spike", "dan"))
    until("Alertmanager's message", lambda: alerts("firing", "D"), 60)


def again() -> None:
    """A second start, and one after `down`, end as the first did."""
    for name in ("up again", "down and up"):
        started = time.monotonic()
        if name == "down and up":
            _compose("down", "--timeout", "10")
        _compose("up", "--detach", "--wait", "--wait-timeout", "180", *SERVICES)
        report(f"{name}: healthy after {time.monotonic() - started:.1f} s")


# --- what it looks at ---


def tell(command: str, relation: str, *rows: list[Any]) -> None:
    text = json.dumps({"do": command, "relation": relation, "args": rows})
    _compose("exec", "-T", "materialized", "python3", "/rehearsal/materialized.py", text)


def gauges() -> str:
    return _get(URL["tocsin"] + "/metrics")


def inbox() -> dict[str, Any]:
    text = _get(URL["inbox"] + "/control/state")
    found: dict[str, Any] = json.loads(text) if text else {"notifications": [], "webhooks": []}
    return found


def messages(workflow: str, person: str) -> list[Any]:
    return [each for each in inbox()["notifications"] if (each["workflow"], each["subscriber"]) == (workflow, person)]


def webhooks(name: str) -> list[Any]:
    return [each for each in inbox()["webhooks"] if each["name"] == name]


def alerts(status: str, organization: str = "B") -> list[Any]:
    """Alertmanager's, about deployments of an organization."""
    told = [alert for each in webhooks("alertmanager") for alert in each["body"]["alerts"]]
    return [a for a in told if a["status"] == status and a["labels"].get("organization") == organization]


def prometheus(query: str) -> list[str]:
    text = _get(URL["prometheus"] + "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
    return [each["value"][1] for each in json.loads(text)["data"]["result"]] if text else []


def delivered() -> float:
    """Events that the broker has confirmed since the producer's start."""
    found = prometheus("sum(tocsin_producer_events_delivered_total)")
    return float(found[0]) if found else 0.0


def container(service: str) -> str:
    return _compose("ps", "--all", "--quiet", service).stdout.strip()


def health(service: str) -> str:
    return _inspect(container(service), ".State.Health.Status")


def _more(what: Callable[[], float], than: float) -> bool:
    return what() > than


def _is_healthy(service: str) -> bool:
    return health(service) == "healthy"


def kill(service: str) -> None:
    """SIGKILL from outside, as by the kernel. `docker kill` would count as stopped by hand: no restart follows."""
    pid = int(_inspect(container(service), ".State.Pid"))
    os.kill(pid, signal.SIGKILL)
    until(f"the end of {service}", lambda: _inspect(container(service), ".State.Pid") != str(pid), 10)


def until(what: str, condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise FailureError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.2)


def check(condition: bool, otherwise: str) -> None:
    if not condition:
        raise FailureError(otherwise)


def report(line: str) -> None:
    print(f"  {line}", flush=True)


# --- with what ---


def _pinned() -> dict[str, str]:
    config = json.loads(_compose("config", "--format", "json").stdout)
    return {service: config["services"][service]["image"] for service in STAND_INS}


def _size(image: str) -> int:
    return int(_inspect(image, ".Size"))


def _inspect(what: str, field: str) -> str:
    return _quiet("docker", "inspect", "--format", f"{{{{{field}}}}}", what).stdout.strip()


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def _compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(*_COMPOSE, *arguments)


def _quiet(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, env=_ENVIRON, capture_output=True, text=True)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    done = _quiet(*command)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        shown = command[len(_COMPOSE) :] if command[: len(_COMPOSE)] == _COMPOSE else command[1:]
        raise FailureError(f"docker {' '.join(shown)}: status {done.returncode}\n{said}")
    return done


def start() -> None:
    started = time.monotonic()
    _compose("build", *OWN)
    report(f"images built in {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    _compose("up", "--detach", "--wait", "--wait-timeout", "180", *SERVICES)
    report(f"all healthy after {time.monotonic() - started:.1f} s")
    state = {service: _inspect(container(service), ".RestartCount") for service in SERVICES}
    check(state.pop("setup") == "1", "setup was to be tried twice")
    check(set(state.values()) == {"0"}, f"restarts at the start: {state}")


def clean_up() -> None:
    _quiet(*_COMPOSE, "down", "--volumes", "--timeout", "5")
    for image in _pinned().values():
        _quiet("docker", "rmi", "--no-prune", image)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    chosen = parser.parse_args()
    try:
        prepare()
        _quiet(*_COMPOSE, "down", "--volumes", "--timeout", "5")
    except SkipError as reason:
        print(f"rehearsal: skipped: {reason}")
        return 0
    except FailureError as failure:
        print(f"rehearsal: {failure}", file=sys.stderr)
        return 1
    try:
        for step in (start, images, sealed, refused, spike, killed_exporter, killed_others, again):
            print(f"{step.__name__.replace('_', ' ')}", flush=True)
            step()
    except FailureError as failure:
        print(f"rehearsal: {failure}\n", file=sys.stderr)
        print(
            _quiet(*_COMPOSE, "ps", "--all").stdout, _quiet(*_COMPOSE, "logs", "--tail", "15").stdout, file=sys.stderr
        )
        return 1
    finally:
        if not chosen.keep:
            clean_up()
    print("rehearsal: all as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
