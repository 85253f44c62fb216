"""Every configuration in README and docs, whole or in part, can be used as it stands there."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tocsin.config import load
from tocsin.config.document import parse

ROOT = Path(__file__).parents[2]
MOVING_OVER = {
    "migrate-from-alertman.md": "e2e/test_rabbitmq.py",
    "migrate-from-estuary-triggers.md": "integration/channel_webhook/test_examples.py",
    "migrate-from-notified.md": "shipped/test_docs_pages.py",
}
"""Pages whose examples have variables and settings of the other system, and what runs them from end to end."""
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in MOVING_OVER),
]
OWN = {"ledger", "web", "log", "sources", "channels", "alerts", "alert_files"}
_SECRETS = {"url": "https://example.com/hook", "urls": "json://127.0.0.1", "dsn": "postgresql://user@db/shop"}
"""What a file of secrets holds, by the setting; anything else is a key."""


class _Environment(dict[str, str]):
    """Every variable has a value that fits wherever one is wanted."""

    def get(self, key: str, default: Any = None) -> Any:
        fitting = {"PORT": "6875", "CHAT_URL": "json://127.0.0.1", "_URL": "https://example.com/hook"}
        return next((value for end, value in fitting.items() if key.endswith(end)), "a-secret-of-some-length")


def blocks() -> list[Any]:
    found = []
    for page in PAGES:
        texts = re.findall(r"^```ya?ml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        name = page.relative_to(ROOT).with_suffix("").as_posix()
        found += [pytest.param(text, id=f"{name}-{number}") for number, text in enumerate(texts)]
    return found


def completed(written: dict[str, Any], text: str) -> dict[str, Any]:
    """A part of a configuration with the least of what it speaks of and does not have."""
    labels = re.findall(r"labels\.(\w+)", text)
    shown = {
        "labels": [*dict.fromkeys(labels)],
        "annotations": dict.fromkeys(re.findall(r"annotations\.(\w+)", text), "x"),
    }
    whole: dict[str, Any] = defaultdict(dict, {"sources": {}, "channels": {}, "alerts": {}}, **written)
    channels = list(whole["channels"])
    if not whole["alerts"]:
        sources = written.get("sources") or {"shop": {"type": "postgres", "host": "db", "user": "tocsin"}}
        whole["sources"] = sources
        channels = channels or ["terminal"]
        for name, source in sources.items():
            rows = source["type"] in ("materialize", "postgres")
            watched = {"relation": "late_orders"} if rows else {}
            whole["alerts"][f"on_{name}"] = {"source": name, "notify": channels, **watched, **shown}
    for alert in whole["alerts"].values():
        whole["sources"].setdefault(alert["source"], {"type": "postgres", "host": "db", "user": "tocsin"})
        for entry in alert.get("notify", ()):
            channel = entry if isinstance(entry, str) else entry["channel"]
            whole["channels"].setdefault(channel, _channel(entry))
    for channel in whole["channels"]:
        if not any(channel in _notified(alert) for alert in whole["alerts"].values()):
            next(iter(whole["alerts"].values())).setdefault("notify", []).append(channel)
    return dict(whole)


def _channel(entry: Any) -> dict[str, Any]:
    """One whose options an entry of `notify` may set: mail, unless it sets only what every channel has."""
    if isinstance(entry, str) or {*entry} <= {"channel", "when", "interval", "group_by", "on"}:
        return {"type": "console"}
    return {"type": "email", "host": "mail.example.com", "from": "alerts@example.com"}


def _notified(alert: dict[str, Any]) -> list[str]:
    return [entry if isinstance(entry, str) else entry["channel"] for entry in alert.get("notify", ())]


@pytest.mark.parametrize("text", blocks())
def test_a_configuration_on_a_page_can_be_used(text: str, tmp_path: Path) -> None:
    for key, name in re.findall(r"(\w+)_file: /run/secrets/([\w-]+)", text):
        (tmp_path / name).write_text(_SECRETS.get(key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    # Read as our files are, where `on` is a name and not a truth.
    written = parse(text.replace("/run/secrets", str(tmp_path)), "page", _Environment()).data
    assert isinstance(written, dict)
    assert {*written} <= OWN, "neither a configuration of ours nor one of those that we know"
    file = tmp_path / "tocsin.yaml"
    file.write_text(yaml.safe_dump(completed(written, text), allow_unicode=True), encoding="utf-8")
    assert load(file, _Environment()).warnings == ()


def test_each_page_about_moving_over_is_run_by_a_test_of_its_own() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("migrate-from-*.md")}
    assert pages == {*MOVING_OVER}, f"the pages and what runs them: {MOVING_OVER}"
    for page, file in MOVING_OVER.items():
        assert page in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file} no longer runs {page}"
