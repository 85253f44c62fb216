"""Generated pages, the example configuration and the JSON Schema agree with the program, also with a new type."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml
from jsonschema import Draft202012Validator

from support.config import load_text
from support.messages import message
from support.sample_channel import SampleChannel
from support.sending import sent
from support.tocsin import command
from tocsin import registry
from tocsin.app.build import make_channel, policy
from tocsin.channels.base import Delivered
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


TRACKED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
PAGES = [page for name in TRACKED.stdout.split() if (page := ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_rows_of_a_table_have_its_columns(page: Path) -> None:
    """A cell too many is dropped without a word where the page is shown."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = table.splitlines()
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(re.findall(r"(?<!\\)\|", rows[0]))}, rows[0]


# A new type of channel or source is one module and one line in the registry.


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(registry.CHANNELS, "sample", "support.sample_channel")


NEW = """
sources: {shop: {type: postgres, host: db, user: tocsin}}
channels: {new: {type: sample, target: from the channel, max_attempts: 3}}
alerts: {late: {source: shop, relation: late, notify: [{channel: new, target: from the alert}]}}
"""


def table(family: str) -> str:
    return generate.kinds_table(README).partition(f"<!-- {family},")[2].partition(f"<!-- end of {family} -->")[0]


def test_readme_has_the_tables_of_the_registry() -> None:
    assert generate.kinds_table(README) == README, "run: make docs"


@pytest.mark.usefixtures("sample")
def test_new_channel_is_in_readme_settings_and_schema() -> None:
    assert "| `sample` | A sample. | tocsin[sample] |\n" in table("channels")
    assert "### `type: sample`" in generate.settings_page()
    assert schema()["$defs"]["sample_channel"]["required"] == ["type", "target"]


def test_new_source_is_in_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "second_http", registry.SOURCES["http"])
    assert "\n| `second_http` | " in table("sources")


@pytest.mark.usefixtures("sample")
async def test_new_channel_is_configured_and_sends(tmp_path: Path) -> None:
    config = load_text(tmp_path, NEW).channels["new"]
    channel = make_channel(config)
    assert isinstance(channel, SampleChannel)
    assert policy(config).max_attempts == 3
    one = message(alert="late")
    assert await sent(channel, one) == Delivered()
    assert channel.sent == [("from the alert", one.id)]
