"""Every configuration in README and docs, whole or in part, is valid."""

import subprocess
from pathlib import Path

import pytest

from support.documented import Environment, written_to
from support.monitoring_programs import program
from support.pages import DOCS, ROOT, blocks
from tocsin.config import load

MIGRATIONS = {
    "migrate-from-alertman.md": "e2e/test_rabbitmq.py",
    "migrate-from-estuary-triggers.md": "integration/channel_webhook/test_examples.py",
    "migrate-from-notified.md": "shipped/test_docs_pages.py",
    "migrate-from-query-exporter.md": "unit/test_init_translations.py",
    "migrate-from-sql-exporter.md": "unit/test_init_translations.py",
}
"""Pages whose examples have settings of other systems, and the tests that run them."""
ELSEWHERE = {*MIGRATIONS, "security.md", "testing.md", "tutorial.md"}
"""Run by tests of their own: test_docs_security.py, test_alert_tests.py, test_tutorial.py."""
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if page.name not in ELSEWHERE)]
EVERY = [
    pytest.param(text, id=f"{page.stem}-{n}")
    for page in PAGES
    for n, text in enumerate(blocks(page, "ya?ml"))
    if not text.startswith("# dbt_project.yml")
]
OF_PROMETHEUS = {"scrape_configs:": "config", "groups:": "rules"}
"""How parts of Prometheus' own files begin, and what promtool calls such a file."""
PROMETHEUS = [one for one in EVERY if str(one.values[0]).startswith(tuple(OF_PROMETHEUS))]
BLOCKS = [one for one in EVERY if one not in PROMETHEUS]


@pytest.mark.parametrize("text", BLOCKS)
def test_configuration_on_a_page_is_valid(text: str, tmp_path: Path) -> None:
    assert load(written_to(tmp_path, text), Environment()).warnings == ()


@pytest.mark.parametrize("text", PROMETHEUS)
def test_prometheus_takes_its_part_of_a_page(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    file.write_text(text, encoding="utf-8")
    kind = next(kind for beginning, kind in OF_PROMETHEUS.items() if text.startswith(beginning))
    checked = subprocess.run([program("promtool"), "check", kind, file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_each_migration_page_is_run_by_a_test() -> None:
    assert {page.name for page in DOCS.glob("migrate-from-*.md")} == MIGRATIONS.keys()
    for page, file in MIGRATIONS.items():
        assert page in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} no longer runs {page}"
