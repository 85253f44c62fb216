"""Rehearse `docker compose up` where images cannot be pulled.

The project's own images are built and run as in docker-compose.yml, with the real `setup`. Replacements take the pinned
names of the others: Apache Kafka for Redpanda, a double of Materialize that keeps definitions and the rows it is given,
Prometheus and Alertmanager from Debian's packages (see Dockerfile and compose.yaml).

    tests/e2e/rehearsal/run              everything once
    tests/e2e/rehearsal/run --keep       leave the stack running; the next run removes it

Needs a Docker engine with Compose, the base image (python:3.13-slim, or one of that name), packages for pip and apt,
Java and Maven (or Kafka's jars, fetched by a test before), and root, to kill processes in containers. Without them it
prints "skipped" and why, with exit status 0. Grafana and Novu itself are left out: of Novu's profile, the order, Redis,
the bootstrap and the key for Tocsin are rehearsed. In the end everything is removed, also the borrowed names.
"""

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from e2e.rehearsal.engine import (
    BASE,
    LASTING,
    PROJECT,
    ROOT,
    FailureError,
    SkipError,
    Stack,
    check,
    docker,
    give_back,
    inspect,
    prepare,
    report,
    until,
)
from tocsin_producer.events import TOPICS

OWN = ("exporter", "producer", "inbox")
OWN_LAYERS_LIMIT = 110_000_000
"""What an image may add to its base, which has 125 MB: the whole stays below 250 MB."""
VIEW = "demo.organization_alert"
SPIKE, CALM = "deployment-spike", "deployment-calm"
WINDOW = "TOCSIN_SETUP_DEPLOYMENT_WINDOW"


# Changes and observations from outside.


def change(stack: Stack, command: str, organization: str, owner: str) -> None:
    """`insert` a row into the view of deployments, or `delete` it."""
    row = json.dumps(["deployment_spike", organization, "warning", owner, 11, 1])
    stack.compose("exec", "-T", "materialized", "python3", "/rehearsal/materialized.py", command, VIEW, row)


def page(stack: Stack, service: str, path: str) -> str:
    """A page of a service; empty if it does not answer."""
    try:
        with urllib.request.urlopen(stack.url(service) + path, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def gauge(stack: Stack, organization: str) -> bool:
    return f'organization="{organization}"' in page(stack, "tocsin", "/metrics")


def inbox(stack: Stack, kind: str) -> list[Any]:
    """`notifications` or `webhooks` in the inbox."""
    found: list[Any] = json.loads(page(stack, "inbox", "/control/state") or "{}").get(kind, [])
    return found


def messages(stack: Stack, workflow: str, person: str) -> int:
    found = [(each["workflow"], each["subscriber"]) for each in inbox(stack, "notifications")]
    return found.count((workflow, person))


def alerted(stack: Stack, status: str, organization: str) -> bool:
    """Whether Alertmanager notified of an organization."""
    bodies = [each["body"] for each in inbox(stack, "webhooks") if each["name"] == "alertmanager"]
    found = [(alert["status"], alert["labels"].get("organization")) for body in bodies for alert in body["alerts"]]
    return (status, organization) in found


def prometheus(stack: Stack, query: str) -> list[str]:
    text = page(stack, "prometheus", "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
    return [each["value"][1] for each in json.loads(text)["data"]["result"]] if text else []


def delivered(stack: Stack) -> float:
    """Events that the broker has confirmed since the producer's start."""
    return float((prometheus(stack, "sum(tocsin_producer_events_delivered_total)") or ["0"])[0])


def stored(stack: Stack, topic: str) -> int:
    """Number of events in a topic, read from outside the containers."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{stack.ports['REDPANDA']}", "group.id": "rehearsal"})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        return int(high) - int(low)
    finally:
        consumer.close()


def until_message(stack: Stack, workflow: str, person: str) -> None:
    until(f"{workflow} to {person}", lambda: messages(stack, workflow, person))


def until_alerted(stack: Stack, status: str, organization: str) -> None:
    until(f"Alertmanager: {organization} {status}", lambda: alerted(stack, status, organization), 90)


# Steps.


def start(stack: Stack) -> None:
    """A first start, without data and without `.env`."""
    started = time.monotonic()
    stack.compose("build", *OWN)
    report(f"images built in {time.monotonic() - started:.0f} s")
    report(f"all healthy after {stack.up():.1f} s")
    restarts = {service: stack.state(service, ".RestartCount") for service in (*LASTING, "setup")}
    check(restarts.pop("setup") == "1", "setup should have been tried twice")
    check(set(restarts.values()) == {"0"}, f"restarts at the start: {restarts}")
    check(" created" in stack.logs("setup").splitlines()[-1], stack.logs("setup"))
    for topic in TOPICS:
        until(f"events in {topic}", lambda topic=topic: stored(stack, topic))  # type: ignore[misc]


def images(stack: Stack) -> None:
    """The project's images are small and unprivileged; the exporter is read-only and has no compiler."""
    for service in OWN:
        image = f"tocsin-{service}:local"
        added = int(inspect(image, ".Size")) - int(inspect(BASE, ".Size"))
        user = inspect(image, ".Config.User")
        report(f"{image}: {added / 1e6:.0f} MB on top of the base, user {user}")
        check(added <= OWN_LAYERS_LIMIT, f"{image} adds {added} bytes")
        check(user == "10001:10001", f"{image} runs as {user}")
    inside = "import os, shutil; print(os.getuid(), [t for t in ('gcc', 'cc', 'make') if shutil.which(t)])"
    found = stack.compose("exec", "-T", "exporter", "python", "-c", inside).stdout.strip()
    check(found == "10001 []", f"user and compilers of the exporter: {found}")
    tried = stack.tried("exec", "-T", "--user", "0", "exporter", "touch", "/opt/x").stderr
    check("Read-only file system" in tried, f"the root is not read-only: {tried}")


def memory(stack: Stack) -> None:
    """Memory at low load."""
    until("samples in Prometheus", lambda: prometheus(stack, 'up{job=~"tocsin|producer"}') == ["1", "1"])
    named = ("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
    for line in docker(*named, *map(stack.container, LASTING)).stdout.splitlines():
        report(line.removeprefix(f"{PROJECT}-"))


def spike(stack: Stack) -> None:
    """A row is inserted and deleted, and both paths notify of it."""
    started = time.monotonic()
    change(stack, "insert", "B", "bob")
    until("the gauge", lambda: gauge(stack, "B"))
    until_message(stack, SPIKE, "bob")
    report(f"row -> message of Novu: {time.monotonic() - started:.1f} s")
    until("the webhook", lambda: "audit" in {each["name"] for each in inbox(stack, "webhooks")})
    until("the sample in Prometheus", lambda: prometheus(stack, 'organization_alert{organization="B"}') == ["11"])
    until_alerted(stack, "firing", "B")
    report(f"row -> message of Alertmanager: {time.monotonic() - started:.1f} s")
    change(stack, "delete", "B", "bob")
    until("the end of the gauge", lambda: not gauge(stack, "B"))
    until_message(stack, CALM, "bob")
    until_alerted(stack, "resolved", "B")


# Mistakes of users. Each has a clear message, or recovers, and never makes a container restart for ever.


def no_secrets(stack: Stack) -> None:
    """The profile `novu` without an `.env`."""
    result = stack.tried("--profile", "novu", "run", "--rm", "--no-deps", "novu-secrets")
    check(result.returncode == 1 and "NOVU_JWT_SECRET" in result.stderr + result.stdout, f"no secrets: {result}")


def missing_key_files(stack: Stack) -> None:
    """A missing file is named, and running services keep running."""
    for service, variable in (("exporter", "NOVU_API_KEY_FILE"), ("alertmanager", "SLACK_WEBHOOK_URL_FILE")):
        result = stack.tried("up", "--detach", "--wait", service, **{variable: "/no/such/file"})
        check(result.returncode != 0 and "/no/such/file" in result.stderr, f"{variable}: {result}")
    stack.up()


def taken_port(stack: Stack) -> None:
    """A port is in use: Docker names it, and `up` succeeds once it is free."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = stack.tried("up", "--detach", "--wait", "inbox", INBOX_PORT=str(port))
        named = re.search(rf":{port}\b.*address already in use", result.stderr)
        check(result.returncode != 0 and named is not None, str(result))
    stack.up()


def setup_twice(stack: Stack) -> None:
    """Two at once, both with a view to recreate, while Tocsin reads it; then back again."""
    change(stack, "insert", "A", "amy")
    until_message(stack, SPIKE, "amy")
    restarts = stack.state("exporter", ".RestartCount")
    for window in ("3 minutes", "2 minutes"):
        command = ("run", "--rm", "--no-deps", "-T", "--env", f"{WINDOW}={window}", "setup")
        for run in [stack.begin(*command), stack.begin(*command)]:
            result, _ = run.communicate(timeout=120)
            check(run.returncode == 0, f"setup beside setup: status {run.returncode}\n{result}")
        until("health after setup", lambda: stack.healthy("exporter"), 60)
    until("the end of what the view no longer has", lambda: not gauge(stack, "A"))
    until_message(stack, CALM, "amy")
    check(stack.state("exporter", ".RestartCount") == restarts, "the exporter was started again")


def wrong_slack_key(stack: Stack) -> None:
    """Slack refuses: Alertmanager logs it, and the inbox still gets the message."""
    with tempfile.NamedTemporaryFile("w", prefix="slack-") as file:
        file.write("http://inbox:8925/services/not-the-key")
        file.flush()
        Path(file.name).chmod(0o644)
        stack.up("alertmanager", ALERTMANAGER_CONFIG="alertmanager.slack.yml", SLACK_WEBHOOK_URL_FILE=file.name)
        change(stack, "insert", "A", "ann")
        until_alerted(stack, "firing", "A")
        refused = re.compile(r"/slack\[\d\]: .*status code 404")
        until("a line about Slack", lambda: refused.search(stack.logs("alertmanager")))
        check(stack.state("alertmanager", ".RestartCount") == "0", "Alertmanager was started again")
    stack.up("alertmanager")


# Crashes and restarts.


def killed_exporter(stack: Stack) -> None:
    """Changes while the exporter is dead are notified once when it is back, also after a reload."""
    change(stack, "insert", "C", "cat")
    until_message(stack, SPIKE, "cat")
    stack.compose("exec", "-T", "exporter", "sh", "-c", "kill -HUP 1")
    until("the reload", lambda: "configuration applied" in stack.logs("exporter"))
    stack.kill("exporter")
    change(stack, "delete", "C", "cat")
    report(f"exporter killed -> healthy: {until('health', lambda: stack.healthy('exporter'), 60):.1f} s")
    until_message(stack, CALM, "cat")
    check(not gauge(stack, "C"), "the gauge is not the view")
    counts = [messages(stack, workflow, "cat") for workflow in (SPIKE, CALM)]
    check(counts == [1, 1], f"messages: {counts}")


def killed_others(stack: Stack) -> None:
    """Every other killed service restarts, and the stack recovers."""
    for service in LASTING[::-1]:
        if service != "exporter":
            started = time.monotonic()
            stack.kill(service)
            until(f"{service} is up again", lambda service=service: stack.healthy(service), 90)  # type: ignore[misc]
            until("everything is healthy", stack.healthy, 90)
            report(f"{service} killed -> all healthy: {time.monotonic() - started:.1f} s")
        if service == "redpanda":
            # By now Prometheus has scraped the producer since the broker died, so any more are new.
            before = delivered(stack)
            until("newly confirmed events", lambda: delivered(stack) > before, 60)  # noqa: B023
    change(stack, "insert", "D", "dan")
    until_message(stack, SPIKE, "dan")
    until_alerted(stack, "firing", "D")


def restarted(stack: Stack) -> None:
    """All services are restarted at once, in no order."""
    started = time.monotonic()
    stack.compose("restart", "--timeout", "10", *LASTING)
    until("everything is healthy", stack.healthy, 120)
    report(f"everything restarted at once -> all healthy: {time.monotonic() - started:.1f} s")


def again(stack: Stack) -> None:
    """A second `up`, and one after `down` with a slow broker, succeed, too."""
    report(f"up again: healthy after {stack.up():.1f} s")
    stack.compose("down", "--timeout", "10")
    report(f"down and up, with a broker 10 s late: healthy after {stack.up(REHEARSAL_LATE='10'):.1f} s")
    check(stack.state("setup", ".RestartCount") == "0", "setup was tried more than once")
    done = stack.logs("setup").splitlines()[-1]
    check(re.fullmatch(r"demo: \d+ unchanged", done) is not None, f"setup: {done}")


def two(stack: Stack) -> None:
    """The ledger is copied to PostgreSQL for two exporters, which share it: each goes on when the other is killed or
    stopped."""
    both = stack.with_two
    change(stack, "insert", "B", "fay")
    until_message(stack, SPIKE, "fay")
    stack.compose("stop", "exporter")
    copy = ("ledger", "copy", "/var/lib/tocsin/tocsin.db", "/etc/tocsin/tocsin.yaml")
    report(both.compose("run", "--rm", "-T", "exporter", *copy).stdout.strip().splitlines()[-1])
    services = (*LASTING, "setup", "postgres", "exporter-2")
    report(f"two exporters: healthy after {both.up(*services):.1f} s")
    for service in ("tocsin", "tocsin_2"):
        until(f"{service} is ready", lambda service=service: page(both, service, "/readyz"))  # type: ignore[misc]
    until("both scraped", lambda: prometheus(both, 'up{job="tocsin"}') == ["1", "1"], 60)
    until("both lead", lambda: prometheus(both, "count(max by (instance) (tocsin_instance_leads) == 1)") == ["2"], 60)
    change(both, "insert", "C", "eve")
    until_message(both, SPIKE, "eve")
    both.compose("kill", "exporter")  # which counts as stopped by hand, so that it is not back before the take-over
    change(both, "delete", "C", "eve")
    report(f"killed -> message by the other: {until('take-over', lambda: messages(both, CALM, 'eve')):.1f} s")
    both.up("exporter")
    until("the first one is back", lambda: page(both, "tocsin", "/readyz"))
    both.compose("stop", "exporter-2")
    change(both, "insert", "C", "kim")
    report(f"stopped -> message by the other: {until('take-over', lambda: messages(both, SPIKE, 'kim')):.1f} s")
    counts = [messages(both, *each) for each in ((SPIKE, "eve"), (CALM, "eve"), (SPIKE, "fay"), (SPIKE, "kim"))]
    check(counts == [1, 1, 1, 1], f"messages: {counts}")
    both.compose("rm", "--stop", "--force", "exporter-2", "postgres")


def own_novu(stack: Stack) -> None:
    """The profile `novu` in its order: secrets, databases, server, bootstrap, and Tocsin with its key."""
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, str(ROOT / "novu/bootstrap.py"), "secrets")
        written = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    environ = dict(line.split("=", 1) for line in written.splitlines() if "=" in line and not line.startswith("#"))
    for line in (f"workflows: created {SPIKE}", "workflows: nothing to create"):
        report(f"{line}: healthy after {stack.up('novu-bootstrap', 'exporter', **environ):.1f} s")
        check(line in stack.logs("novu-bootstrap", **environ), f"novu-bootstrap did not log {line!r}")
    change(stack, "insert", "B", "bea")
    until("an accepted event", lambda: "/v1/events/trigger HTTP/1.1 201" in stack.logs("novu-api", **environ))


STEPS = (
    *(start, images, memory, spike),
    *(no_secrets, missing_key_files, taken_port, setup_twice, wrong_slack_key),
    *(killed_exporter, killed_others, restarted, again, two, own_novu),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    keep = parser.parse_args().keep
    try:
        stack = prepare()
    except SkipError as reason:
        print(f"rehearsal: skipped: {reason}")
        return 0
    except FailureError as failure:
        print(f"rehearsal: {failure}", file=sys.stderr)
        return 1
    started = time.monotonic()
    try:
        for step in STEPS:
            print(f"{step.__name__.replace('_', ' ')} (at {time.monotonic() - started:.0f} s)", flush=True)
            step(stack)
    except FailureError as failure:
        print(f"rehearsal: {failure}\n", file=sys.stderr)
        print(stack.tried("ps", "--all").stdout, stack.tried("logs", "--tail", "15").stdout, file=sys.stderr)
        return 1
    finally:
        if keep:
            print("\n".join(f"{name.lower()}: {stack.url(name)}" for name in stack.ports))
        else:
            stack.clear()
            give_back(stack)
    print("rehearsal: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
