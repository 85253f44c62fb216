"""Known faults of similar programs in configuration and packaging."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.config import load_text
from support.pipelines import CONFIG
from tocsin.config import Config
from tocsin.errors import ConfigError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "exporter" / "tocsin"
MAIL = {"type": "email", "host": "mail.example.com", "from": "a@example.com", "recipients": ["b@example.com"]}


def loaded(directory: Path, channel: dict[str, Any], **more: Any) -> Config:
    """A configuration with this channel. Words with a meaning in YAML are quoted, as if they came from variables."""
    config = yaml.safe_load(CONFIG)
    name = next(iter(config["channels"]))
    return load_text(directory, yaml.safe_dump({**config, "channels": {name: channel}, **more}))


@pytest.mark.parametrize("word", ["False", "false", "FALSE", "no", "off", "0"])
def test_word_for_no_is_read_as_false(word: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, {"type": "console"}, web={"admin": word}).web.admin is False


@pytest.mark.parametrize("word", ["", "perhaps", "None"])
def test_unclear_boolean_word_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.admin"):
        loaded(tmp_path, {"type": "console"}, web={"admin": word})


@pytest.mark.parametrize("word", ["False", "no", "", "ssl"])
def test_unknown_mail_security_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.out\.security"):
        loaded(tmp_path, {**MAIL, "security": word})


@pytest.mark.parametrize("number", [0, -1])
def test_max_attempts_below_one_is_refused(number: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.out\.max_attempts"):
        loaded(tmp_path, {"type": "console", "max_attempts": number})
    assert loaded(tmp_path, {"type": "console", "max_attempts": 1}).channels["out"].settings.max_attempts == 1


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are evaluated when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*child.args.defaults, *child.args.kw_defaults]
            yield from (found for default in defaults if default for found in [default, *at_import(default)])
        else:
            yield child
            yield from at_import(child)


def test_import_does_not_read_the_environment() -> None:
    def reads(file: Path) -> bool:
        nodes = at_import(ast.parse(file.read_text(encoding="utf-8")))
        return any(isinstance(each, ast.Attribute) and each.attr in {"environ", "getenv"} for each in nodes)

    assert [file for file in PACKAGE.rglob("*.py") if reads(file)] == []


def test_oldest_promised_python_is_the_checked_one() -> None:
    project = tomllib.loads((ROOT / "exporter" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in project["classifiers"]
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
