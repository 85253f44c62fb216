"""Code blocks of the documentation."""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page: Path | str, language: str) -> list[str]:
    """The code blocks of a language on a page, in order, those in lists too. A text is a path below `docs/`."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return [dedent(block) for _, block in found]
