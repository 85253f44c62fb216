"""Types of channels and sources that packages register, and what is reported about those that cannot be used."""

from pathlib import Path
from types import ModuleType

import pytest

import tocsin
from support.config import load_text
from support.packages import Packages, packages
from tocsin import client, handlers, plugin
from tocsin.config.schema import schema
from tocsin.errors import ConfigError, PluginError

__all__ = ["packages"]

CHANNEL = """
from tocsin.plugin import ChannelConfig, ChannelOptions
class Options(ChannelOptions): room: str = "general"
class Config(ChannelConfig, Options): "A chat."
def build(name, config, routes): return None
"""
SOURCE = """
from tocsin.plugin import RowSourceSettings
class Config(RowSourceSettings): "A folder."
def build(name, config): return None
"""
CONFIG = """
sources: {here: {type: SOURCE}}
channels: {team: {type: CHANNEL}}
alerts: {late: {source: here, relation: late, notify: [team]}}
"""
IMPORT, FIX = "which cannot be imported:", "reinstall or uninstall the package"
REASONS = {
    "import chatlib": f"{IMPORT} ModuleNotFoundError: No module named 'chatlib'; {FIX}",
    "raise SystemExit(3)": f"{IMPORT} SystemExit: 3; {FIX}",
    "": "whose Config is not a subclass of ChannelConfig",
    "class Config: pass": "whose Config is not a subclass of ChannelConfig",
    CHANNEL.replace(
        "class Options(ChannelOptions)", "class Options"
    ): "whose Options is not a subclass of ChannelOptions",
    CHANNEL.replace("(ChannelConfig, Options)", "(ChannelConfig, ChannelOptions)"): "whose Config is not a subclass of "
    "its Options",
    CHANNEL.replace("def build", "def built"): "which has no function build",
}


def problems(directory: Path, *, channel: str = "console", source: str = "postgres, host: db, user: u") -> list[str]:
    with pytest.raises(ConfigError) as found:
        load_text(directory, CONFIG.replace("CHANNEL", channel).replace("SOURCE", source))
    return [f"{problem.line}: {problem.path}: {problem.message}" for problem in found.value.problems]


def test_registered_types_are_configured_and_in_schema(packages: Packages, tmp_path: Path) -> None:
    packages.add("chat", CHANNEL, channels="mychat")
    packages.add("files", SOURCE, sources="folder")
    config = load_text(tmp_path, CONFIG.replace("CHANNEL", "mychat, room: a").replace("SOURCE", "folder"))
    assert (config.channels["team"].routes["late"].room, config.sources["here"].kind) == ("a", "folder")
    found = schema()["$defs"]
    assert (found["mychat_channel"]["description"], found["folder_source"]["description"]) == ("A chat.", "A folder.")


@pytest.mark.parametrize(("code", "why"), REASONS.items())
def test_broken_package_is_named_with_the_reason(packages: Packages, tmp_path: Path, code: str, why: str) -> None:
    kind = f"chat{[*REASONS].index(code)}"
    packages.add("broken", code, channels=kind)
    whole = f"the package broken 1.0 registers it as broken_{kind}, {why}"
    assert problems(tmp_path, channel=kind) == [f"3: channels.team.type: {whole}"]
    with pytest.raises(PluginError, match=f"^channel type {kind}: "):
        schema()


def test_broken_source_is_named_with_the_reason(packages: Packages, tmp_path: Path) -> None:
    packages.add("broken", "class Config: pass", sources="shelf")
    why = "whose Config is not a subclass of RowSourceSettings or EventSourceSettings"
    whole = f"the package broken 1.0 registers it as broken_shelf, {why}"
    assert problems(tmp_path, source="shelf") == [f"2: sources.here.type: {whole}"]


def test_type_of_two_packages_is_refused(packages: Packages, tmp_path: Path) -> None:
    packages.add("one", CHANNEL, channels="mychat")
    packages.add("two", CHANNEL, channels="mychat")
    why = "one 1.0 and two 1.0 register it; uninstall all but one, or rename a type"
    assert problems(tmp_path, channel="mychat") == [f"3: channels.team.type: {why}"]


def test_type_that_tocsin_has_is_refused(packages: Packages, tmp_path: Path) -> None:
    packages.add("other", CHANNEL, channels="webhook")
    why = "Tocsin has this type, and other 1.0 registers it too; uninstall that package, or rename its type"
    assert problems(tmp_path, channel="webhook, url: 'http://localhost'") == [f"3: channels.team.type: {why}"]
    # A configuration that does not use it is valid.
    load_text(tmp_path, CONFIG.replace("CHANNEL", "console").replace("SOURCE", "postgres, host: db, user: u"))


def test_type_with_other_characters_is_refused(packages: Packages, tmp_path: Path) -> None:
    packages.add("other", CHANNEL, channels="my/chat")
    [found] = problems(tmp_path, channel="my/chat")
    assert found.endswith("and a type is made of letters, digits, _ and -; rename it")


@pytest.mark.parametrize("module", [tocsin, plugin, handlers, client], ids=lambda module: module.__name__)
def test_public_names_exist_and_each_has_a_docstring(module: ModuleType) -> None:
    names = module.__all__
    assert sorted(names) == sorted({*names})
    assert [name for name in names if getattr(module, name) is None] == []
    assert module.__doc__
