"""Replace secrets in text and in configuration before they are shown, logged or stored."""

import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar, cast
from urllib.parse import quote

from pydantic import SecretBytes, SecretStr

T = TypeVar("T")

SECRET = "<secret>"  # noqa: S105 - the mark, not a secret
"""The mark in place of a secret."""

MAX_DETAIL = 200
"""The most characters of another program's text that are quoted."""

_SHORTEST = 4
"""Characters. Shorter secrets are not searched for inside other text: they would be found everywhere."""

_WORD = 8
"""Characters from which a word of a secret of several words (`Bearer abc...`) is replaced on its own."""

_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")


def redactor(secrets: Iterable[SecretStr | str]) -> Callable[[str], str]:
    """Return a function that makes another program's text fit to be shown: one line, shortened, without secrets.

    A secret of several words (`Bearer abc...`) is also replaced word by word.
    """
    words: set[str] = set()
    for text in map(_plain, secrets):
        words |= {text, *(word for word in text.split() if len(word) >= _WORD)}
    masked = masker(words)

    return lambda text: one_line(masked(text))


def one_line(text: str, limit: int = MAX_DETAIL) -> str:
    """Return a text as one line of printable characters, at most `limit` of them."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def masker(words: Iterable[SecretStr | str]) -> Callable[[str], str]:
    """Return a function that replaces each of the words in a text by the mark, also where it is escaped for JSON,
    Python, URLs or HTML."""
    plain = map(_plain, words)
    spellings = {spelling for word in plain for spelling in (word, *_escaped(word)) if len(spelling) >= _SHORTEST}
    ordered = sorted(spellings, key=len, reverse=True)
    if not ordered:
        return lambda text: text
    pattern = re.compile("|".join(map(re.escape, ordered)))
    return lambda text: pattern.sub(SECRET, text)


def masked(tree: T, mask: Callable[[str], str]) -> T:
    """Return JSON with every text in it masked."""
    result: Any = tree
    match tree:
        case str():
            result = mask(tree)
        case Mapping():
            result = {mask(str(key)): masked(item, mask) for key, item in tree.items()}
        case list():
            result = [masked(item, mask) for item in tree]
    return cast("T", result)


def redacted(tree: Any) -> Any:
    """Return nested data as a file would have it, with the mark for every secret, for user-info in URLs, and for the
    text of a secret inside other text."""
    return _masked(tree, masker(_secrets(tree)))


def _plain(secret: SecretStr | str) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


def _escaped(word: str) -> tuple[str, ...]:
    return json.dumps(word)[1:-1], repr(word)[1:-1], quote(word, safe=""), html.escape(word)


def _secrets(tree: Any) -> Iterator[str]:
    match tree:
        case SecretStr():
            yield tree.get_secret_value()
        case SecretBytes():
            yield tree.get_secret_value().decode(errors="replace")
        case Mapping():
            yield from _secrets(list(tree.values()))
        case list() | tuple() | set() | frozenset():
            for item in tree:
                yield from _secrets(item)


def _masked(tree: Any, mask: Callable[[str], str]) -> Any:
    match tree:
        case SecretStr() | SecretBytes():
            return SECRET
        case Mapping():
            return {str(key): _masked(item, mask) for key, item in tree.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked(item, mask) for item in tree]
        case Enum():
            return tree.value
        case None | bool() | int() | float():
            return tree
    return mask(_USER_INFO.sub(rf"\1{SECRET}@", str(tree)))
