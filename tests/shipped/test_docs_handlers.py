"""The handlers on the page about them can be compiled, and name what there is."""

import re
from pathlib import Path

import pytest

from tocsin.handlers import __all__ as public

PAGE = (Path(__file__).parents[2] / "docs" / "channels" / "python.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL), ids=lambda text: text.splitlines()[0]
)
def test_the_code_on_the_page_compiles_and_imports_what_is_there(text: str) -> None:
    compile(text, "page", "exec")
    [imported] = re.findall(r"from tocsin\.handlers import (.*)", text)
    assert {*imported.split(", ")} <= {*public}
