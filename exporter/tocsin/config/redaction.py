"""Configuration to look at: plain data in which no secret is left."""

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from tocsin.settings import Settings

SECRET = "<secret>"  # noqa: S105 - what is shown in place of one
_USER_INFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))
_SHORT = 4
"""Secrets shorter than this are not looked for inside other texts: they would be found everywhere."""


def redact(tree: Any) -> Any:
    """The tree with `<secret>` for every secret, for user-info in URLs, and wherever a secret's text stands in other
    text."""
    texts = sorted({text for text in _secrets(tree) if len(text) >= _SHORT}, key=len, reverse=True)
    return _redacted(tree, re.compile("|".join(map(re.escape, texts))) if texts else None)


def plain(model: BaseModel) -> dict[str, Any]:
    """A model as nested plain data under the keys of the file; secrets are left as the objects that hide them.

    What is not set is left out, and so is a secret that was read from a file: the file is named.
    """
    from_file = {
        name
        for name in (model.secrets if isinstance(model, Settings) else ())
        if getattr(model, f"{name}_file", None) is not None
    }
    result: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None and name not in from_file:
            result[field.alias or name] = duration(value) if is_duration(field) else _plain(value)
    return {**result, **(model.__pydantic_extra__ or {})}


def is_duration(field: FieldInfo) -> bool:
    """Whether a field is written as a duration: a number here, a text in the file."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("type") == "string" and "pattern" in extra


def duration(seconds: float) -> str:
    """Seconds as a Prometheus duration: 5400.0 is `1h30m`."""
    rest = round(seconds * 1000)
    text = ""
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0"


def _plain(value: Any) -> Any:
    match value:
        case BaseModel():
            return plain(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case Enum():
            return value.value
        case None | bool() | int() | float() | str() | SecretStr() | SecretBytes():
            return value
    return str(value)


def _secrets(tree: Any) -> Iterator[str]:
    match tree:
        case SecretStr():
            yield tree.get_secret_value()
        case SecretBytes():
            yield tree.get_secret_value().decode(errors="replace")
        case dict():
            for item in tree.values():
                yield from _secrets(item)
        case list():
            for item in tree:
                yield from _secrets(item)


def _redacted(tree: Any, texts: re.Pattern[str] | None) -> Any:
    match tree:
        case SecretStr() | SecretBytes():
            return SECRET
        case dict():
            return {key: _redacted(item, texts) for key, item in tree.items()}
        case list():
            return [_redacted(item, texts) for item in tree]
        case str():
            tree = _USER_INFO.sub(rf"\1{SECRET}@", tree)
            return texts.sub(SECRET, tree) if texts else tree
    return tree
