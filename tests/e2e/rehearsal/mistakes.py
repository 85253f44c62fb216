"""Mistakes of users. Each has a clear message, or recovers, and never makes a container restart for ever."""

import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.rehearsal.engine import FailureError, Stack, check, report, until
from e2e.rehearsal.looking import alerts, change, gauges, messages, spiking

WINDOW = "TOCSIN_SETUP_DEPLOYMENT_WINDOW"


def no_secrets(stack: Stack) -> None:
    """The profile `novu` without an `.env`."""
    result = stack.tried("--profile", "novu", "run", "--rm", "--no-deps", "novu-secrets")
    check(result.returncode == 1 and "NOVU_JWT_SECRET" in result.stderr + result.stdout, f"no secrets: {result}")


def missing_key_files(stack: Stack) -> None:
    """A missing file is named, and running services keep running."""
    for service, variable in (("exporter", "NOVU_API_KEY_FILE"), ("alertmanager", "SLACK_WEBHOOK_URL_FILE")):
        result = stack.tried("up", "--detach", "--wait", service, **{variable: "/no/such/file"})
        shown = next((line for line in result.stderr.splitlines() if "/no/such/file" in line), "")
        check(result.returncode != 0 and bool(shown), f"{variable}: {result}")
        report(f"{variable}: {shown.strip()}")
    stack.up()


def wrong_slack_key(stack: Stack) -> None:
    """Slack refuses: Alertmanager logs it, and the inbox still gets the message."""
    with tempfile.NamedTemporaryFile("w", prefix="slack-") as file:
        file.write("http://inbox:8925/services/not-the-key")
        file.flush()
        Path(file.name).chmod(0o644)
        environ = {"ALERTMANAGER_CONFIG": "alertmanager.slack.yml", "SLACK_WEBHOOK_URL_FILE": file.name}
        stack.up("alertmanager", **environ)
        change(stack, "insert", spiking("A", "ann"))
        until("Alertmanager's message", lambda: alerts(stack, "firing", "A"), 60)
        until("a line about Slack", lambda: _about_slack(stack))
        report(f"wrong Slack key: {_about_slack(stack)[:250]}...")
        check(stack.state("alertmanager", ".RestartCount") == "0", "Alertmanager was started again")
    stack.up("alertmanager")


def taken_port(stack: Stack) -> None:
    """A port is in use: Docker names it, and `up` succeeds once it is free."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = stack.tried("up", "--detach", "--wait", "inbox", INBOX_PORT=str(port))
        shown = next((line for line in result.stderr.splitlines() if f":{port}" in line), "")
        check(result.returncode != 0 and "address already in use" in shown, str(result))
        report(f"taken port: {re.sub('[0-9a-f]{64}', '...', shown.strip())}")
    stack.up()


def setup_twice(stack: Stack) -> None:
    """Two at once, both with a view to recreate, while Tocsin reads it; then back again."""
    row = spiking("A", "amy")
    change(stack, "insert", row)
    until("the message", lambda: messages(stack, "deployment-spike", "amy"))
    restarts = stack.state("exporter", ".RestartCount")
    for window in ("3 minutes", "2 minutes"):
        command = ("run", "--rm", "--no-deps", "-T", "--env", f"{WINDOW}={window}", "setup")
        for run in [stack.begin(*command), stack.begin(*command)]:
            result, _ = run.communicate(timeout=120)
            if run.returncode:
                raise FailureError(f"setup beside setup: status {run.returncode}\n{result}")
        until("health after setup", lambda: stack.is_healthy("exporter"), 60)
    until("the end of what the view no longer has", lambda: 'organization="A"' not in gauges(stack))
    until("the message of the end", lambda: messages(stack, "deployment-calm", "amy"))
    check(stack.state("exporter", ".RestartCount") == restarts, "the exporter was started again")
    report("setup twice at once: both ended with 0")


MISTAKES: tuple[Callable[[Stack], None], ...] = (
    no_secrets,
    missing_key_files,
    taken_port,
    setup_twice,
    wrong_slack_key,
)


def _about_slack(stack: Stack) -> str:
    lines = stack.logs("alertmanager").splitlines()
    return next((line for line in lines if re.search(r"/slack\[\d\]: .*status code 404", line)), "")
