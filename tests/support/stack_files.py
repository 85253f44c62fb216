"""The shipped files of the full stack, with addresses and paths of a test in them and nothing else changed."""

from pathlib import Path
from typing import Any

import yaml

from support.prometheus import free_port
from support.stack import COMPOSED
from tocsin.config.document import parse

ROOT = Path(__file__).parents[2]
KEY_FILE = ROOT / "compose" / "inbox-key"
_INBOX = "http://inbox:8925"


def tocsin_config(folder: Path, inbox: str, source: dict[str, Any]) -> dict[str, Any]:
    """Tocsin's configuration. It listens at one port, also when it is started again, or Prometheus would not find it.

    Args:
        inbox: the inbox's address.
        source: what is said of the server instead of its address in the stack.
    """
    environment = {"NOVU_URL": inbox, "NOVU_API_KEY_PATH": str(KEY_FILE), "WEBHOOK_URL": f"{inbox}/webhook/audit"}
    config: Any = parse(COMPOSED.read_text(encoding="utf-8"), str(COMPOSED), environment).data
    config["ledger"]["path"] = str(folder / "tocsin.db")
    config["web"]["listen"] = f"127.0.0.1:{free_port()}"
    config["sources"]["materialize"] |= source
    return dict(config)


def prometheus_config(tocsin: str, alertmanager: int) -> dict[str, Any]:
    """Prometheus's configuration.

    Args:
        tocsin: host and port. Of the other services there are none.
        alertmanager: port on this machine.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["rule_files"] = [str(ROOT / "prometheus" / pattern) for pattern in config["rule_files"]]
    config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]
    there = {"tocsin": tocsin, "alertmanager": f"127.0.0.1:{alertmanager}"}
    nobody = f"127.0.0.1:{free_port()}"
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [there.get(job["job_name"], nobody)]}]
    return config


def alertmanager_file(folder: Path, inbox: str) -> Path:
    """Alertmanager's configuration, as a file in `folder`. `inbox`: the inbox's address."""
    text = (ROOT / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    assert _INBOX in text
    file = folder / "alertmanager.yml"
    file.write_text(text.replace(_INBOX, inbox), encoding="utf-8")
    return file
