"""What a person gets wrong. Each mistake is answered by a clear message, or heals, and never by a container that ends
and starts over and over."""

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
    said = stack.tried("--profile", "novu", "run", "--rm", "--no-deps", "novu-secrets")
    check(said.returncode == 1 and "NOVU_JWT_SECRET" in said.stderr + said.stdout, f"no secrets: {said}")


def missing_key_files(stack: Stack) -> None:
    """A path that leads nowhere is told, and what runs goes on running."""
    for service, variable in (("exporter", "NOVU_API_KEY_FILE"), ("alertmanager", "SLACK_WEBHOOK_URL_FILE")):
        said = stack.tried("up", "--detach", "--wait", service, **{variable: "/no/such/file"})
        shown = next((line for line in said.stderr.splitlines() if "/no/such/file" in line), "")
        check(said.returncode != 0 and bool(shown), f"{variable}: {said}")
        report(f"{variable}: {shown.strip()}")
    stack.up()


def wrong_slack_key(stack: Stack) -> None:
    """Slack refuses: Alertmanager's log says so, and the inbox is told all the same."""
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
    """Somebody has the port: Docker names it, and `up` goes on where it stopped once it is free."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        said = stack.tried("up", "--detach", "--wait", "inbox", INBOX_PORT=str(port))
        shown = next((line for line in said.stderr.splitlines() if f":{port}" in line), "")
        check(said.returncode != 0 and "address already in use" in shown, str(said))
        report(f"taken port: {re.sub('[0-9a-f]{64}', '...', shown.strip())}")
    stack.up()


def setup_twice(stack: Stack) -> None:
    """Two at once, both with something to replace, under a Tocsin that reads it; then the same back again."""
    row = spiking("A", "amy")
    change(stack, "insert", row)
    until("the message", lambda: messages(stack, "deployment-spike", "amy"))
    restarts = stack.state("exporter", ".RestartCount")
    for window in ("3 minutes", "2 minutes"):
        command = ("run", "--rm", "--no-deps", "-T", "--env", f"{WINDOW}={window}", "setup")
        for run in [stack.begin(*command), stack.begin(*command)]:
            said, _ = run.communicate(timeout=120)
            if run.returncode:
                raise FailureError(f"setup beside setup: status {run.returncode}\n{said}")
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
