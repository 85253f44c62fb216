"""Configurations on pages of the documentation, completed so that they are whole."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from tocsin.config.document import parse

SECRETS = {"url": "https://example.com/hook", "urls": "json://127.0.0.1", "dsn": "postgresql://user@db/shop"}
"""The content of a file of secrets by setting; the default is a key."""
POSTGRES = {"type": "postgres", "host": "db", "user": "tocsin"}


class Environment(dict[str, str]):
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


def written_to(folder: Path, text: str) -> Path:
    """Write a configuration on a page, completed, with the files of secrets that it names."""
    for key, name in re.findall(r"(\w+)_file: /run/secrets/([\w-]+)", text):
        (folder / name).write_text(SECRETS.get(key, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    # Parsed like a configuration file, where `on` is not a boolean.
    written = parse(text.replace("/run/secrets", str(folder)), "page", Environment()).data
    assert isinstance(written, dict)
    assert {*written} <= {"ledger", "web", "log", "sources", "channels", "alerts", "alert_files"}
    file = folder / "tocsin.yaml"
    file.write_text(yaml.safe_dump(completed(written, text), allow_unicode=True), encoding="utf-8")
    return file
