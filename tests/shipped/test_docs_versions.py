"""The versions that the documentation says were tested are those that the tests run."""

import platform
import re
import subprocess
from collections.abc import Callable, Sequence

import pytest

from support import dbt, kafka, pgbouncer, postgres, rabbitmq_packages
from support.materialize.errors import RELEASES
from support.monitoring_programs import ALERTMANAGER_VERSION, PROMETHEUS_VERSION, program
from support.novu_recordings import FILES
from support.pages import DOCS


def written(name: str) -> list[str]:
    """The versions of a program in each of its rows of the table, in the table's order."""
    text = (DOCS / "performance.md").read_text(encoding="utf-8").partition("## Tested against")[2]
    return re.findall(rf"^\| {re.escape(name)} \| ([^|]*) \|", text, re.MULTILINE)


def short(*versions: object) -> str:
    """Versions without their last number."""
    return ", ".join(".".join(str(version).removeprefix("v").split(".")[:2]) for version in versions)


def reported(command: Sequence[str]) -> str:
    """The version that a program of this machine says it has."""
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = re.search(r"\d+\.\d+\.\d+", ran.stdout + ran.stderr)
    assert found, ran
    return found[0]


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("Materialize", [short(*RELEASES), short(RELEASES[-1])]),
        ("Novu", [short(*FILES)]),
        ("PostgreSQL", [short(postgres.DEBIANS, postgres.NEWEST)]),
        ("Kafka", [short(kafka.VERSION, kafka.NEWEST)]),
        ("dbt-core with dbt-materialize", [" with ".join(short(each.partition("==")[2]) for each in dbt.PACKAGES)]),
    ],
)
def test_documented_versions_are_those_run(name: str, run: Sequence[str]) -> None:
    assert written(name) == run


@pytest.mark.skipif(
    platform.freedesktop_os_release().get("VERSION_CODENAME") != "bookworm", reason="another system has others"
)
@pytest.mark.parametrize(
    ("name", "asked", "fetched"),
    [
        ("Prometheus", lambda: (program("prometheus"), "--version"), [PROMETHEUS_VERSION]),
        ("Alertmanager", lambda: (program("alertmanager"), "--version"), [ALERTMANAGER_VERSION]),
        ("RabbitMQ", lambda: (rabbitmq_packages.programs().control, "version"), [rabbitmq_packages.VERSION]),
        ("PgBouncer", lambda: (pgbouncer.program(pgbouncer.VERSIONS[0]), "--version"), pgbouncer.SUITES),
    ],
)
def test_documented_older_version_is_that_of_debian_12(
    name: str, asked: Callable[[], Sequence[str]], fetched: Sequence[str]
) -> None:
    """`fetched`: the later ones, which the tests fetch."""
    assert written(name) == [short(reported(asked()), *fetched)]
