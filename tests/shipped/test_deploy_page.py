"""docs/deploy.md, followed literally where no cluster is needed."""

import asyncio
import re
import shlex
import sqlite3
import sys
from pathlib import Path

import pytest
import yaml

from support.helm import CHART, read_objects, run_helm
from support.pages import DOCS, blocks
from support.scripts import ROOT
from support.tocsin import new_harness
from tocsin.app import outputs

PAGE = "deploy.md"
COMMANDS = [line for block in blocks(PAGE, "") for line in block.replace("\\\n", " ").splitlines()]
CONFIG = """
    web: {{listen: "0.0.0.0:8627"}}
    ledger: {ledger}
    alerts: {{}}
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("number", "kind", "replicas", "ledger"),
    [
        (0, "StatefulSet", 1, "{path: /var/lib/tocsin/tocsin.db}"),
        (1, "Deployment", 3, "{url_file: /run/secrets/tocsin/ledger-url}"),
    ],
    ids=["one pod", "several pods"],
)
def test_helm_command_of_the_page_renders(number: int, kind: str, replicas: int, ledger: str, tmp_path: Path) -> None:
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    assert f"ledger: {ledger}" in page
    config = tmp_path / "tocsin.yaml"
    config.write_text(CONFIG.format(ledger=ledger), encoding="utf-8")
    command = [line for line in COMMANDS if line.startswith("helm install")][number]
    options = shlex.split(command.replace("config=tocsin.yaml", f"config={config}"))[4:]
    assert shlex.split(command)[:4] == ["helm", "install", "tocsin", str(CHART.relative_to(ROOT))]
    [workload] = (
        each for each in read_objects(run_helm("template", "tocsin", CHART, *options)) if each["kind"] == kind
    )
    assert workload["spec"]["replicas"] == replicas
    mounts = {mount["mountPath"] for mount in workload["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert str(Path(ledger.strip("{}").split()[-1]).parent) in mounts, "the ledger is in a mount"


@pytest.mark.e2e
async def test_backup_of_the_page_is_taken_while_tocsin_runs(tmp_path: Path) -> None:
    [command] = (line for line in COMMANDS if line.startswith("python3 -c"))
    async with new_harness(tmp_path) as harness, harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(("1", "Ann", "10"))
        await harness.until_notified(("fired", "1"))
        copy = tmp_path / "backup.db"
        given = command.replace("/var/lib/tocsin/tocsin.db", str(harness.ledger)).replace(
            "/root/tocsin-backup.db", str(copy)
        )
        process = await asyncio.create_subprocess_exec(sys.executable, *shlex.split(given)[1:])
        assert await process.wait() == 0
        with sqlite3.connect(copy) as backup:
            assert backup.execute("SELECT count(*) FROM firings").fetchone() == (1,)
        backup.close()
        await tocsin.until_ready()


def test_values_of_the_page_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    named = re.findall(r"`(\w+)\.(\w+)", (DOCS / PAGE).read_text(encoding="utf-8"))
    own = [(section, key) for section, key in named if section in values and section != "ledger"]
    assert {"monitor", "persistence", "networkPolicy", "prometheusRule"} <= {section for section, _ in own}
    assert [(section, key) for section, key in own if key not in values[section]] == []


def test_grace_periods_cover_the_end_of_a_process() -> None:
    """It may wait for Alertmanagers, for what is ready, for what is under way then, and for scrapes."""
    longest = outputs._CATCH_UP + 2 * outputs._DRAIN + 2
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    assert f"has {longest - 2:.0f} seconds at most" in page
    assert f"ends within {longest:.0f} seconds" in page
    given = [yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["terminationGracePeriodSeconds"]]
    for unit in (ROOT / "deploy/systemd").glob("*.service"):
        given += map(int, re.findall(r"^TimeoutStopSec=(\d+)s$", unit.read_text(encoding="utf-8"), re.MULTILINE))
    for file in (ROOT / "docker-compose.yml", ROOT / "docker-compose.ha.yml"):
        for name, service in yaml.safe_load(file.read_text(encoding="utf-8"))["services"].items():
            if name.startswith("exporter") and "stop_grace_period" in service:
                given.append(int(service["stop_grace_period"].removesuffix("s")))
    assert len(given) == 5
    assert min(given) > longest


def test_page_puts_files_where_the_unit_expects_them() -> None:
    unit = (ROOT / "deploy/systemd/tocsin.service").read_text(encoding="utf-8")
    assert "TOCSIN_CONFIG=%E/tocsin/tocsin.yaml" in unit
    assert "cp tocsin.yaml /etc/tocsin/tocsin.yaml" in COMMANDS
    assert "python3 -m venv /opt/tocsin" in COMMANDS
