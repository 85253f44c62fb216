"""The units run under a systemd, in a container: with every restriction, secrets, reload, restarts and instances."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

import pytest

from support.scripts import ROOT
from support.systemd import UNITS
from support.waiting import seen

pytestmark = [pytest.mark.timeout(1800), pytest.mark.xdist_group("systemd")]

CONFIG = """
    web: {{listen: "127.0.0.1:{port}"}}
    sources:
      ops: {{type: http, token_file: "${{CREDENTIALS_DIRECTORY}}/token"}}
    channels:
      out: {{type: {channel}}}
    alerts:
      deployed: {{source: ops, event: deployed, notify: [out]}}
"""
IMAGE = "tocsin-test:systemd"
TOKEN = "a-token-of-some-length"


@dataclass(frozen=True, slots=True)
class Machine:
    container: str

    def run(self, command: str, given: str = "") -> str:
        """The output of a command as root, whatever its status."""
        whole = ("docker", "exec", "-i", self.container, "sh", "-c", command)
        done = subprocess.run(whole, input=given, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip()

    def show(self, key: str, unit: str = "tocsin") -> str:
        return self.run(f"systemctl show --property {key} --value {unit}")

    def ask(self, address: str) -> str:
        return self.run(
            f"python -I -c 'import urllib.request as r; print(r.urlopen(\"http://{address}\").read().decode())'"
        )

    def configure(self, *, channel: str = "console", port: int = 8627, file: str = "tocsin") -> None:
        text = dedent(CONFIG).format(channel=channel, port=port)
        self.run(f"cat > /etc/tocsin/{file}.yaml", text)

    def until_ready(self, port: int = 8627) -> None:
        seen(lambda: "Tocsin is ready" in self.ask(f"127.0.0.1:{port}/readyz"), f"a ready Tocsin on {port}")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    if shutil.which("docker") is None or _docker("info").returncode:
        pytest.skip("docker does not answer")
    _build("tocsin-exporter:local", "--file", "exporter/Dockerfile", ".")
    _build(IMAGE, "tests/deploy/systemd")
    # systemd needs nearly everything; a container with all capabilities cannot be started everywhere.
    rights = ("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--cgroupns", "private")
    open_ = [
        part for what in ("seccomp", "apparmor", "systempaths") for part in ("--security-opt", f"{what}=unconfined")
    ]
    started = _docker(
        "run", "--detach", *rights, *open_, "--tmpfs", "/run", "--tmpfs", "/tmp", "-e", "container=docker", IMAGE
    )
    assert not started.returncode, started.stderr
    machine = Machine(started.stdout.strip())
    try:
        for unit in UNITS.glob("*.service"):
            machine.run(f"cat > /etc/systemd/system/{unit.name}", unit.read_text(encoding="utf-8"))
        seen(lambda: machine.run("systemctl is-system-running") in ("running", "degraded"), "systemd", 60)
        yield machine
    finally:
        _docker("rm", "--force", machine.container)


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """A Tocsin that is ready, with a secret."""
    machine.configure()
    machine.run("umask 077; cat > /etc/tocsin/secrets/token", TOKEN)
    secret = "[Service]\nLoadCredential=token:/etc/tocsin/secrets/token\n"
    for unit in ("tocsin", "tocsin@"):
        machine.run(
            f"mkdir -p /etc/systemd/system/{unit}.service.d; cat > /etc/systemd/system/{unit}.service.d/override.conf",
            secret,
        )
    machine.run("systemctl daemon-reload; systemctl reset-failed; systemctl restart tocsin")
    machine.until_ready()
    yield machine
    machine.run("systemctl stop tocsin 'tocsin@*'")


def test_service_runs_without_rights_and_takes_its_secret(service: Machine) -> None:
    status = service.run("cat /proc/$(systemctl show --property MainPID --value tocsin)/status")
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "Uid:\t0" not in status
    request = f"""python -I -c 'import urllib.request as r; print(r.urlopen(r.Request(
        "http://127.0.0.1:8627/api/v1/events/deployed", data=b"{{}}",
        headers={{"Authorization": "Bearer {TOKEN}", "Content-Type": "application/json"}})).status)'"""
    assert service.run(request) == "202"
    assert "process_start_time_seconds 1." in service.ask("127.0.0.1:8627/metrics"), "the rules need it"


def test_state_is_private_and_survives_a_restart(service: Machine) -> None:
    assert "-rw-------" in service.run("ls -l /var/lib/private/tocsin/tocsin.db")
    before = service.run("stat -c %i /var/lib/private/tocsin/tocsin.db")
    service.run("systemctl restart tocsin")
    service.until_ready()
    assert service.run("stat -c %i /var/lib/private/tocsin/tocsin.db") == before


def test_reload_keeps_the_process_and_refuses_mistakes(service: Machine) -> None:
    before = service.show("MainPID")
    assert service.run("systemctl reload tocsin") == ""
    service.configure(channel="consol")
    assert service.run("systemctl reload tocsin") == ""
    refused = "configuration refused; the last good one stays"
    seen(lambda: refused in service.run("journalctl --unit tocsin --no-pager --lines 5"), "the refusal in the journal")
    assert (service.show("MainPID"), service.show("ActiveState")) == (before, "active")


def test_killed_process_is_started_again(service: Machine) -> None:
    service.run("kill -9 $(systemctl show --property MainPID --value tocsin)")
    seen(lambda: service.show("NRestarts") != "0", "a restart")
    service.until_ready()


def test_invalid_configuration_ends_the_service(service: Machine) -> None:
    service.configure(channel="consol")
    service.run("systemctl restart tocsin")
    seen(lambda: service.show("ActiveState") == "failed", "the end")
    assert service.show("ExecMainStatus") == "2"
    assert "did you mean console?" in service.run("journalctl --unit tocsin --no-pager --lines 5")


def test_stop_is_clean(service: Machine) -> None:
    service.run("systemctl stop tocsin")
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")


def test_instance_has_its_own_configuration_and_state(service: Machine) -> None:
    service.configure(port=8628, file="orders")
    service.run("systemctl start tocsin@orders")
    service.until_ready(8628)
    assert service.show("ActiveState") == "active"
    assert "tocsin.db" in service.run("ls /var/lib/private/tocsin-orders")


def test_workers_run_with_the_restrictions_of_the_unit(service: Machine) -> None:
    """As docs/deploy.md says. There is no database here, so they wait for it, and answer."""
    service.run("echo 'ledger: {url: postgresql://tocsin@127.0.0.1:1/alerts}' >> /etc/tocsin/tocsin.yaml")
    override = "/etc/systemd/system/tocsin.service.d/workers.conf"
    service.run(f"cat > {override}", "[Service]\nExecStart=\nExecStart=/opt/tocsin/bin/tocsin run --workers 2\n")
    try:
        service.run("systemctl daemon-reload; systemctl restart tocsin")
        for port in (8627, 8628):
            address = f"127.0.0.1:{port}/metrics"
            seen(lambda address=address: "tocsin_ledger_up 0.0" in service.ask(address), address)  # type: ignore[misc]
        service.run("systemctl stop tocsin")
        assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    finally:
        service.run(f"rm {override}; systemctl daemon-reload")


def _build(tag: str, *arguments: str) -> None:
    built = _docker("build", "--quiet", "--network", "host", "--tag", tag, *arguments)
    assert not built.returncode, built.stderr[-2000:]


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(("docker", *arguments), cwd=ROOT, capture_output=True, text=True)
