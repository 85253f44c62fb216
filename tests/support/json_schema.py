"""As much of JSON Schema as the schema of the configuration uses. An unknown keyword is an error."""

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any] | bool


def refused(schema: Schema, data: Any, definitions: Mapping[str, Schema], place: str = "") -> Iterator[str]:
    """The places in data that do not fit, some of them several times, as in `.alerts.late.notify[0]`."""
    if isinstance(schema, bool):
        if not schema:
            yield place
        return
    for keyword, wanted in schema.items():
        if keyword in _ALONE:
            speaks_of, fits = _ALONE[keyword]
            if isinstance(data, speaks_of) and not fits(data, wanted):
                yield place
        elif keyword in _TOGETHER:
            schemas = wanted if isinstance(wanted, list) else [wanted]
            if not _TOGETHER[keyword]([next(refused(one, data, definitions), None) is None for one in schemas]):
                yield place
        elif keyword in _PARTS:
            speaks_of, parts = _PARTS[keyword]
            for inner, value, where in parts(data, wanted, schema) if isinstance(data, speaks_of) else ():
                yield from refused(inner, value, definitions, place + where)
        elif keyword == "$ref":
            yield from refused(definitions[wanted.rpartition("/")[2]], data, definitions, place)
        else:
            assert keyword in _ABOUT, keyword


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "null": type(None),
    "number": (int, float),
    "integer": int,
    "boolean": bool,
}


def _is(data: Any, names: str | Sequence[str]) -> bool:
    wanted = [names] if isinstance(names, str) else names
    return any(isinstance(data, _TYPES[name]) and (name == "boolean" or not isinstance(data, bool)) for name in wanted)


_Fits: TypeAlias = Callable[[Any, Any], bool]
_ALONE: Mapping[str, tuple[type | tuple[type, ...], _Fits]] = {
    "type": (object, _is),
    "const": (object, lambda data, wanted: data == wanted and type(data) is type(wanted)),
    "enum": (object, lambda data, wanted: data in wanted),
    "required": (dict, lambda data, names: all(name in data for name in names)),
    "pattern": (str, lambda data, wanted: re.search(wanted, data) is not None),
    "minLength": (str, lambda data, wanted: len(data) >= wanted),
    "minItems": (list, lambda data, wanted: len(data) >= wanted),
    "minimum": ((int, float), operator.ge),
    "exclusiveMinimum": ((int, float), operator.gt),
    "maximum": ((int, float), operator.le),
}
"""Keyword -> the types that it speaks of, and whether data of these fits."""

_TOGETHER: Mapping[str, Callable[[list[bool]], bool]] = {
    "anyOf": any,
    "allOf": all,
    "oneOf": lambda fit: sum(fit) == 1,
    "not": lambda fit: not any(fit),
}
"""Keyword -> what must hold of which of its schemas fit."""


def _others(data: dict[str, Any], node: Mapping[str, Any]) -> Iterator[str]:
    """The keys that no property and no pattern speaks of."""
    patterns = node.get("patternProperties", {})
    known = node.get("properties", {})
    return (name for name in data if name not in known and not any(re.search(one, name) for one in patterns))


_Parts: TypeAlias = Callable[[Any, Any, Mapping[str, Any]], Iterable[tuple[Schema, Any, str]]]
_PARTS: Mapping[str, tuple[type, _Parts]] = {
    "properties": (dict, lambda data, wanted, _: ((wanted[n], data[n], f".{n}") for n in data if n in wanted)),
    "additionalProperties": (
        dict,
        lambda data, wanted, node: ((wanted, data[n], f".{n}") for n in _others(data, node)),
    ),
    "propertyNames": (dict, lambda data, wanted, _: ((wanted, name, "") for name in data)),
    "items": (list, lambda data, wanted, _: ((wanted, item, f"[{i}]") for i, item in enumerate(data))),
}
"""Keyword -> the type that it speaks of, and the parts of such data with their schemas and places."""

_ABOUT = {"description", "title", "default", "format", "$schema", "$defs", "patternProperties"}
"""Keywords that refuse nothing; `additionalProperties` looks at the patterns."""
