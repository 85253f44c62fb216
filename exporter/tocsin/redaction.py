"""Remove secrets from the text of other programs before it is shown or stored."""

import html
import json
from collections.abc import Callable, Iterable
from urllib.parse import quote

from pydantic import SecretStr

MAX_DETAIL = 200
"""Characters of another program's text that may be quoted."""


def redactor(secrets: Iterable[SecretStr | str]) -> Callable[[str], str]:
    """What takes secrets out of a receiver's words, makes them one line and shortens them.

    Each secret goes whole and, if it has blanks in it (`Bearer abc...`), its longer words too, as they are and as a
    receiver may escape them.
    """
    words: set[str] = set()
    for secret in secrets:
        text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        words |= {text, *(word for word in text.split() if len(word) >= 8)}
    words |= {spelling for word in words for spelling in _spellings(word)}
    ordered = sorted((word for word in words if len(word) > 3), key=len, reverse=True)  # `1` is no secret

    def redact(text: str) -> str:
        for word in ordered:
            text = text.replace(word, "***")
        line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
        return line if len(line) <= MAX_DETAIL else line[: MAX_DETAIL - 1] + "…"

    return redact


def _spellings(word: str) -> tuple[str, ...]:
    """A word in JSON, in the log of a Python program, in an address, and on a web page."""
    return json.dumps(word)[1:-1], repr(word)[1:-1], quote(word, safe=""), html.escape(word)
