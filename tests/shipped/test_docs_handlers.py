"""The pages about handlers and Alertmanager: their configurations can be used, and their handlers be called."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tocsin.config import load
from tocsin.handlers import __all__ as public

PAGES = Path(__file__).parents[2] / "docs" / "channels"
SHOP = {"sources": {"shop": {"type": "postgres", "host": "db", "user": "tocsin"}}}


def blocks(language: str) -> list[Any]:
    """The code of a language on both pages."""
    return [
        pytest.param(found, id=f"{page}-{number}")
        for page in ("python", "alertmanager")
        for number, found in enumerate(
            re.findall(
                rf"^```{language}\n(.*?)^```",
                (PAGES / f"{page}.md").read_text(encoding="utf-8"),
                re.MULTILINE | re.DOTALL,
            )
        )
    ]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_configuration_on_the_page_can_be_used(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "alertmanager"
    secret.write_text("secret")
    written = yaml.safe_load(text.replace("/run/secrets", str(tmp_path)))
    alert = {"source": "shop", "relation": "late_orders", "labels": ["customer"], "notify": list(written["channels"])}
    file = tmp_path / "tocsin.yaml"
    file.write_text(yaml.safe_dump({**SHOP, "alerts": {"late_orders": alert}, **written}), encoding="utf-8")
    assert load(file, {}).warnings == ()


@pytest.mark.parametrize("text", blocks("python"))
def test_the_code_on_the_page_compiles_and_imports_what_is_there(text: str) -> None:
    compile(text, "page", "exec")
    [imported] = re.findall(r"from tocsin\.handlers import (.*)", text)
    assert {*imported.split(", ")} <= {*public}
