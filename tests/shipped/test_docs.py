"""Generated pages, the example configuration and the JSON Schema agree with the program."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml
from jsonschema import Draft202012Validator

from support.tocsin import command
from tocsin.config import load
from tocsin.config.document import parse
from tocsin.config.schema import schema
from tocsin.registry import CHANNELS, LEVELS, SOURCES

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "exporter" / "tocsin.example.yaml"
SCHEMA_CASES = yaml.safe_load(Path(__file__).with_name("schema_cases.yaml").read_text(encoding="utf-8"))
"""Parts of a configuration, and the places in them that the schema refuses."""


class _NotExpanded(dict[str, str]):
    """An environment that leaves every reference as an editor sees it."""

    def get(self, key: str, default: object = None) -> str:
        return f"${{{key}}}"


def objects(node: object) -> Iterator[Mapping[str, Any]]:
    """Every node of the schema that has properties."""
    if isinstance(node, dict) and isinstance(node.get("properties"), dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from objects(inner)


def errors(text: str) -> list[str]:
    """The places in a file that the schema refuses."""
    data = parse(text, "", _NotExpanded()).data
    found = Draft202012Validator(schema()).iter_errors(data)
    return sorted({error.json_path.removeprefix("$").removeprefix(".") for error in found})


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_page_is_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run: make docs"


def test_example_configuration_loads_with_every_type() -> None:
    config = load(EXAMPLE, {"NOVU_SECRET_KEY": "key"})
    assert [warning.path for warning in config.warnings] == ["alert_files[0]"]
    assert {source.kind for source in config.sources.values()} == {*SOURCES}
    assert {channel.kind for channel in config.channels.values()} == {*CHANNELS, *LEVELS}


def test_example_configuration_and_descriptions_cover_every_key() -> None:
    shown = {*re.findall(r"(?:^|[\s{,#])([a-z_]+):(?:\s|$)", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)}
    keys = [key for node in objects(schema()) for key in node["properties"].items()]
    assert {name for name, _ in keys} - shown == set()
    assert [name for name, node in keys if "description" not in node and node.keys() != {"const"}] == []


async def test_command_prints_the_schema(tmp_path: Path) -> None:
    status, printed, _ = await command(tmp_path, "schema")
    assert (status, json.loads(printed)) == (0, schema())
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(("text", "places"), SCHEMA_CASES.items())
def test_schema_refuses_exactly_what_is_invalid(text: str, places: list[str]) -> None:
    assert errors(text) == places


def test_schema_accepts_the_example_configuration() -> None:
    assert errors(EXAMPLE.read_text(encoding="utf-8")) == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link
