"""Rehearse `docker compose up` where images cannot be pulled.

The project's own images are built and run as in docker-compose.yml, with the real `setup`. Replacements take the pinned
names of the others: Apache Kafka for Redpanda, a double of Materialize that keeps definitions and the rows it is given,
Prometheus and Alertmanager from Debian's packages (see Dockerfile and compose.yaml).

    tests/e2e/rehearsal/run                          everything once
    tests/e2e/rehearsal/run --starts 10 --late 60    ten starts, and a broker that is a minute late
    tests/e2e/rehearsal/run --keep                   leave the stack running; the next run removes it

Needs a Docker engine with Compose, the base image (python:3.13-slim, or one of that name), packages for pip and apt,
Java and Maven (or Kafka's jars, fetched by a test before), and root, to kill processes in containers. Without them it
prints "skipped" and why, with exit status 0. Grafana and Novu itself are left out: of Novu's profile, the order, Redis,
the bootstrap and the key for Tocsin are rehearsed. In the end everything is removed, also the borrowed names.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from functools import partial

from e2e.rehearsal.engine import (
    BASE,
    LASTING,
    OWN,
    PROJECT,
    ROOT,
    FailureError,
    SkipError,
    Stack,
    check,
    clear,
    give_back,
    inspect,
    prepare,
    report,
    run,
    until,
)
from e2e.rehearsal.looking import (
    alerts,
    change,
    delivered,
    gauges,
    messages,
    prometheus,
    spiking,
    stored,
    webhooks,
)
from e2e.rehearsal.mistakes import MISTAKES

OWN_LAYERS_LIMIT = 110_000_000
"""What an image may add to its base, which has 125 MB: the whole stays below 250 MB."""


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
    for topic in ("customer_events", "winning_bids"):
        until(f"events in {topic}", partial(stored, stack, topic))


def images(_: Stack) -> None:
    """Size and user of the project's images."""
    base = _size(BASE)
    for service in OWN:
        image = f"tocsin-{service}:local"
        added = _size(image) - base
        user = inspect(image, ".Config.User")
        report(f"{image}: {added / 1e6:.0f} MB on top of the base, user {user}")
        check(added <= OWN_LAYERS_LIMIT, f"{image} adds {added} bytes")
        check(user == "10001:10001", f"{image} runs as {user}")


def sealed(stack: Stack) -> None:
    """The exporter is unprivileged, read-only and without a compiler."""
    inside = "import os, shutil; print(os.getuid(), [t for t in ('gcc', 'cc', 'make', 'pip') if shutil.which(t)])"
    found = stack.compose("exec", "-T", "exporter", "python", "-c", inside).stdout.strip()
    report(f"exporter: user and build tools: {found}")
    check(found.startswith("10001 "), "the exporter should run as 10001")
    check("cc" not in found and "make" not in found, "the exporter should have no compiler")
    tried = stack.tried("exec", "-T", "--user", "0", "exporter", "touch", "/opt/x").stderr
    check("Read-only file system" in tried, f"the root is not read-only: {tried}")


def memory(stack: Stack) -> None:
    """Memory at low load."""
    until("samples in Prometheus", lambda: prometheus(stack, 'up{job=~"tocsin|producer"}') == ["1", "1"])
    named = ["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"]
    lines = run(*named, *map(stack.container, LASTING)).stdout.splitlines()
    for line in lines:
        report(line.removeprefix(f"{PROJECT}-"))
    used = [re.match(r"\S+ ([\d.]+)([MG])iB", line) for line in lines]
    report(f"in all: {sum(float(u[1]) * (1 if u[2] == 'M' else 1024) for u in used if u):.0f} MiB")


def spike(stack: Stack) -> None:
    """A row is inserted and deleted, and both paths notify of it."""
    row = spiking("B", "bob")
    started = time.monotonic()
    change(stack, "insert", row)
    until("the gauge", lambda: 'organization="B"' in gauges(stack))
    until("the message of Novu", lambda: messages(stack, "deployment-spike", "bob"))
    report(f"row -> message of Novu: {time.monotonic() - started:.1f} s")
    until("the webhook", lambda: webhooks(stack, "audit"))
    until("the sample in Prometheus", lambda: prometheus(stack, 'organization_alert{organization="B"}') == ["11"])
    until("the message of Alertmanager", lambda: alerts(stack, "firing", "B"), 60)
    report(f"row -> message of Alertmanager: {time.monotonic() - started:.1f} s")
    started = time.monotonic()
    change(stack, "delete", row)
    until("the end of the gauge", lambda: 'organization="B"' not in gauges(stack))
    until("the message of the end", lambda: messages(stack, "deployment-calm", "bob"))
    until("Alertmanager's message of the end", lambda: alerts(stack, "resolved", "B"), 90)
    report(f"row deleted -> message of Alertmanager: {time.monotonic() - started:.1f} s")


def killed_exporter(stack: Stack) -> None:
    """Changes while the exporter is dead are notified once when it is back, also after a reload."""
    row = spiking("C", "cat")
    change(stack, "insert", row)
    until("the message", lambda: messages(stack, "deployment-spike", "cat"))
    stack.compose("exec", "-T", "exporter", "sh", "-c", "kill -HUP 1")
    until("the reload", lambda: "configuration applied" in stack.logs("exporter"))
    stack.kill("exporter")
    change(stack, "delete", row)
    report(f"exporter killed -> healthy: {until('health', partial(stack.is_healthy, 'exporter'), 60):.1f} s")
    until("the message of the end", lambda: messages(stack, "deployment-calm", "cat"))
    check('organization="C"' not in gauges(stack), "the gauge is not the view")
    for workflow in ("deployment-spike", "deployment-calm"):
        check(
            len(messages(stack, workflow, "cat")) == 1, f"{workflow}: {len(messages(stack, workflow, 'cat'))} messages"
        )


def killed_others(stack: Stack) -> None:
    """Every other killed service restarts, and the stack recovers."""
    for service in LASTING[::-1]:
        if service == "exporter":
            continue
        started = time.monotonic()
        stack.kill(service)
        until(f"{service} to be up again", partial(stack.is_healthy, service), 90)
        until("everything to be healthy", stack.all_healthy, 90)
        report(f"{service} killed -> all healthy: {time.monotonic() - started:.1f} s")
        if service == "redpanda":
            # By now Prometheus has scraped the producer since the broker died, so any more are new.
            before = delivered(stack)
            until("newly confirmed events", lambda: delivered(stack) > before, 60)  # noqa: B023
    change(stack, "insert", spiking("D", "dan"))
    until("the message", lambda: messages(stack, "deployment-spike", "dan"))
    until("the message of Alertmanager", lambda: alerts(stack, "firing", "D"), 60)


def restarted(stack: Stack) -> None:
    """All services are restarted at once, in no order."""
    started = time.monotonic()
    stack.compose("restart", "--timeout", "10", *LASTING)
    until("everything to be healthy", stack.all_healthy, 120)
    report(f"everything restarted at once -> all healthy: {time.monotonic() - started:.1f} s")


def again(stack: Stack, starts: int, late: float) -> None:
    """A second `up`, and one after each `down`, succeed, too; the last with a slow broker."""
    report(f"up again: healthy after {stack.up():.1f} s")
    for number in range(1, starts + 1):
        stack.down()
        slow = late if number == starts else 0
        took = stack.up(REHEARSAL_LATE=str(slow))
        report(f"down and up {number}{f', broker {slow:g} s late' if slow else ''}: healthy after {took:.1f} s")
        check(stack.state("setup", ".RestartCount") == "0", "setup was tried more than once")
        done = stack.logs("setup").splitlines()[-1]
        check(re.fullmatch(r"demo: \d+ unchanged", done) is not None, f"setup: {done}")


def own_novu(stack: Stack) -> None:
    """The profile `novu` in its order: secrets, databases, server, bootstrap, and Tocsin with its key."""
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, str(ROOT / "novu/bootstrap.py"), "secrets")
        written = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    environ = dict(line.split("=", 1) for line in written.splitlines() if "=" in line and not line.startswith("#"))
    for line in ("workflows: created deployment-spike", "workflows: nothing to create"):
        took = stack.up("novu-bootstrap", "exporter", **environ)
        report(f"{line.partition(',')[0]}: healthy after {took:.1f} s")
        check(line in stack.logs("novu-bootstrap", **environ), f"novu-bootstrap did not log {line!r}")
    change(stack, "insert", spiking("B", "bea"))
    until("an accepted event", lambda: "/v1/events/trigger HTTP/1.1 201" in stack.logs("novu-api", **environ))


def _size(image: str) -> int:
    return int(inspect(image, ".Size"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=1, help="how often to stop and start everything (default 1)")
    parser.add_argument("--late", type=float, default=10, help="seconds that the last broker is late (default 10)")
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    chosen = parser.parse_args()
    try:
        stack = prepare()
    except SkipError as reason:
        print(f"rehearsal: skipped: {reason}")
        return 0
    except FailureError as failure:
        print(f"rehearsal: {failure}", file=sys.stderr)
        return 1
    steps = (start, images, sealed, memory, spike, *MISTAKES, killed_exporter, killed_others, restarted)
    started = time.monotonic()
    try:
        for step in steps:
            print(f"{step.__name__.replace('_', ' ')} (at {time.monotonic() - started:.0f} s)", flush=True)
            step(stack)
        print(f"again (at {time.monotonic() - started:.0f} s)", flush=True)
        again(stack, chosen.starts, chosen.late)
        print(f"own novu (at {time.monotonic() - started:.0f} s)", flush=True)
        own_novu(stack)
    except FailureError as failure:
        print(f"rehearsal: {failure}\n", file=sys.stderr)
        print(stack.tried("ps", "--all").stdout, stack.tried("logs", "--tail", "15").stdout, file=sys.stderr)
        return 1
    finally:
        if chosen.keep:
            print("\n".join(f"{name.lower()}: {stack.url(name)}" for name in stack.ports))
        else:
            clear(stack)
            give_back(stack)
    print("rehearsal: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
