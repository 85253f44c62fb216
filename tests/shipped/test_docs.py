"""What is written down is what runs: generated pages, the example configuration, and the schema that editors get."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import generate
import pytest

from support.json_schema import refused
from support.tocsin import command
from tocsin.config import load
from tocsin.config.document import parse
from tocsin.config.schema import schema
from tocsin.registry import CHANNELS, LEVELS, SOURCES

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "exporter" / "tocsin.example.yaml"


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == generate.PAGES[name](), "run: make docs"


def test_a_page_that_is_out_of_date_is_told_and_then_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.md").write_text("old")
    assert generate.main(["--check", "--directory", str(tmp_path)]) == 1
    assert "out of date: settings.md, metrics.md" in capsys.readouterr().err
    assert (tmp_path / "settings.md").read_text() == "old"
    assert generate.main(["--directory", str(tmp_path)]) == 0
    assert generate.main(["--check", "--directory", str(tmp_path)]) == 0


def test_the_example_configuration_can_be_used() -> None:
    config = load(EXAMPLE, {"NOVU_SECRET_KEY": "key"})
    assert [warning.path for warning in config.warnings] == ["alert_files[0]"]
    assert {source.kind for source in config.sources.values()} == set(SOURCES)
    assert {channel.kind for channel in config.channels.values()} == {*CHANNELS, *LEVELS}


def test_the_example_configuration_has_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    shown = {*re.findall(r"(?:^|[\s{,#])([a-z_]+):(?:\s|$)", text, re.MULTILINE)}
    assert {name for node in _objects(schema()) for name in node["properties"]} - shown == set()


def test_the_schema_describes_every_key() -> None:
    undescribed = [
        name
        for node in _objects(schema())
        for name, inner in node["properties"].items()
        if "description" not in inner and inner.keys() != {"const"}
    ]
    assert undescribed == []


async def test_the_schema_is_what_the_command_prints(tmp_path: Path) -> None:
    status, printed, _ = await command(tmp_path, "schema")
    assert status == 0
    root = json.loads(printed)
    assert root == schema()
    example = parse(EXAMPLE.read_text(encoding="utf-8"), "", _NotExpanded()).data
    assert list(refused(root, example, root["$defs"])) == []
    assert [*refused(root, {"web": {"listen": 5}}, root["$defs"])] == [".web.listen"]


def test_the_schema_takes_the_example_configuration() -> None:
    assert _faults(EXAMPLE.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("webb: {}", "webb"),
        ("web: {listen: 5}", "web.listen"),
        ("web: {admin: perhaps}", "web.admin"),
        ("ledger: {history: 7}", "ledger.history"),
        ("sources: {a: {type: oracle}}", "sources.a"),
        ("sources: {a: {type: postgres, host: h}}", "sources.a"),
        ("sources: {a: {type: postgres, host: h, user: u, password: x, password_file: y}}", "sources.a"),
        ("sources: {a b: {type: postgres, host: h, user: u}}", "sources"),
        ("channels: {a: {type: webhook}}", "channels.a"),
        ("channels: {a: {type: console, format: jsn}}", "channels.a"),
        ("alerts: {a: {relation: v}}", "alerts.a"),
        ("alerts: {a: {source: s, relation: v, query: q}}", "alerts.a"),
        ("alerts: {a: {source: s, relation: v, on_duplicate: mean}}", "alerts.a.on_duplicate"),
        ("alerts: {a: {source: s, relation: v, notify: [{formt: x}]}}", "alerts.a.notify[0]"),
        ("alerts: {a: {source: '', relation: v}}", "alerts.a.source"),
        ("alerts: {a: {source: s, relation: v, max_series: 0}}", "alerts.a.max_series"),
        ("channels: {a: {type: console, on: []}}", "channels.a"),
        ("channels: {a: {type: console, rate_limit: 0}}", "channels.a"),
        ("channels: {a: {type: console, concurrency: 1001}}", "channels.a"),
    ],
)
def test_the_schema_refuses_what_loading_refuses(text: str, place: str) -> None:
    assert _faults(text) == [place]


@pytest.mark.parametrize(
    "text",
    [
        "web:",
        "x-anchors: [1]",
        "web: {admin: '${ADMIN:-false}'}",
        "ledger: {history: '${HISTORY}'}",
        "ledger: {history: 0}",
        "sources: {a: {type: postgres, dsn_file: f, port: '${PORT}'}}",
        "channels: {a: {type: webhook, url_file: f}}",
        "alerts: {a: {source: s, relation: v, labels: {a: b}, notify: [x, {channel: y, format: json}]}}",
    ],
)
def test_the_schema_takes_what_loading_takes(text: str) -> None:
    assert _faults(text) == []


class _NotExpanded(dict[str, str]):
    """An environment that leaves every reference as an editor sees it."""

    def get(self, key: str, default: object = None) -> str:
        return f"${{{key}}}"


def _objects(node: object) -> list[Mapping[str, Any]]:
    """Every node of the schema that has properties."""
    if isinstance(node, dict):
        below = [found for inner in node.values() for found in _objects(inner)]
        return [node, *below] if isinstance(node.get("properties"), dict) else below
    return [found for inner in node for found in _objects(inner)] if isinstance(node, list) else []


def _faults(text: str) -> list[str]:
    """The places in a file that the schema refuses."""
    root = schema()
    data = parse(text, "", _NotExpanded()).data
    return sorted({place.lstrip(".") for place in refused(root, data, root["$defs"])})
