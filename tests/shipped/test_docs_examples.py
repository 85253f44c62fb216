"""Every configuration in README and docs, whole or in part, is valid."""

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.monitoring_programs import program
from support.pages import DOCS, ROOT, blocks
from tocsin.config import load
from tocsin.config.document import parse

MIGRATIONS = {
    "migrate-from-alertman.md": "e2e/test_rabbitmq.py",
    "migrate-from-estuary-triggers.md": "integration/channel_webhook/test_examples.py",
    "migrate-from-notified.md": "shipped/test_docs_pages.py",
}
"""Pages whose examples have settings of other systems, and the tests that run them."""
ELSEWHERE = {*MIGRATIONS, "security.md", "testing.md"}  # test_docs_security.py, test_alert_tests.py
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if page.name not in ELSEWHERE)]
EVERY = [
    pytest.param(text, id=f"{page.stem}-{n}")
    for page in PAGES
    for n, text in enumerate(blocks(page, "ya?ml"))
    if not text.startswith("# dbt_project.yml")
]
PROMETHEUS = [one for one in EVERY if str(one.values[0]).startswith("scrape_configs:")]
BLOCKS = [one for one in EVERY if one not in PROMETHEUS]
SECRETS = {"url": "https://example.com/hook", "urls": "json://127.0.0.1", "dsn": "postgresql://user@db/shop"}
"""The content of a file of secrets by setting; the default is a key."""
POSTGRES = {"type": "postgres", "host": "db", "user": "tocsin"}


class _Environment(dict[str, str]):
    """Every variable has a value that fits where it is used."""

    def get(self, key: str, default: Any = None) -> Any:
        fitting = {"PORT": "6875", "CHAT_URL": "json://127.0.0.1", "_URL": "https://example.com/hook"}
        return next((value for end, value in fitting.items() if key.endswith(end)), "a-secret-of-some-length")


def completed(written: dict[str, Any], text: str) -> dict[str, Any]:
    """A part of a configuration with the least that it needs to be valid."""
    whole: dict[str, Any] = defaultdict(dict, {"sources": {}, "channels": {}, "alerts": {}}, **written)
    if not whole["alerts"]:
        whole["sources"] = whole["sources"] or {"shop": POSTGRES}
        for name, source in whole["sources"].items():
            whole["alerts"][f"on_{name}"] = {
                "source": name,
                "notify": list(whole["channels"]) or ["terminal"],
                "labels": [*dict.fromkeys(re.findall(r"labels\.(\w+)", text))],
                "annotations": dict.fromkeys(re.findall(r"annotations\.(\w+)", text), "x"),
            }
            if source["type"] in ("materialize", "postgres"):
                whole["alerts"][f"on_{name}"]["relation"] = "late_orders"
    for alert in whole["alerts"].values():
        whole["sources"].setdefault(alert["source"], POSTGRES)
        for entry in alert.get("notify", ()):
            whole["channels"].setdefault(_name(entry), _channel(entry))
    for channel in whole["channels"]:
        if not any(channel in map(_name, alert.get("notify", ())) for alert in whole["alerts"].values()):
            next(iter(whole["alerts"].values())).setdefault("notify", []).append(channel)
    return dict(whole)


def _name(entry: Any) -> str:
    return str(entry if isinstance(entry, str) else entry["channel"])


def _channel(entry: Any) -> dict[str, Any]:
    """A channel whose options an entry of `notify` may set: mail, unless it sets only common ones."""
    if isinstance(entry, str) or {*entry} <= {"channel", "when", "interval", "group_by", "on"}:
        return {"type": "console"}
    return {"type": "email", "host": "mail.example.com", "from": "alerts@example.com"}


@pytest.mark.parametrize("text", BLOCKS)
def test_configuration_on_a_page_is_valid(text: str, tmp_path: Path) -> None:
    for key, name in re.findall(r"(\w+)_file: /run/secrets/([\w-]+)", text):
        (tmp_path / name).write_text(SECRETS.get(key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    # Parsed like a configuration file, where `on` is not a boolean.
    written = parse(text.replace("/run/secrets", str(tmp_path)), "page", _Environment()).data
    assert isinstance(written, dict)
    assert {*written} <= {"ledger", "web", "log", "sources", "channels", "alerts", "alert_files"}
    file = tmp_path / "tocsin.yaml"
    file.write_text(yaml.safe_dump(completed(written, text), allow_unicode=True), encoding="utf-8")
    assert load(file, _Environment()).warnings == ()


@pytest.mark.parametrize("text", PROMETHEUS)
def test_prometheus_takes_its_part_of_a_page(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    file.write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [program("promtool"), "check", "config", file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_each_migration_page_is_run_by_a_test() -> None:
    assert {page.name for page in DOCS.glob("migrate-from-*.md")} == MIGRATIONS.keys()
    for page, file in MIGRATIONS.items():
        assert page in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} no longer runs {page}"
