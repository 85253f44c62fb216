"""From plain data to a model, with every mistake told in words that need no knowledge of pydantic."""

import copy
import difflib
import re
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tocsin.config.document import Document, Path
from tocsin.config.redaction import is_duration
from tocsin.settings import Settings
from tocsin.templates import TemplateError

Model = TypeVar("Model", bound=BaseModel)

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
    "url_type": "a URL",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def validate(model: type[Model], data: object, path: Path, document: Document) -> Model | None:
    """The model, or None with the problems added to the document.

    Unquoted numbers and `true`/`false` where text is wanted are taken as the text they were written as (`version:
    1.10`), which is what an expanded `password: ${PASSWORD}` needs that happens to have digits only."""
    if not isinstance(data, dict):
        document.problems.append(document.problem(f"must be a mapping, not {noun(data)}", path))
        return None
    data = _without_bare_seconds(model, data, path, document)
    value, errors = _try(model, data)
    if errors:
        as_text = _as_text(data, path, errors, document)
        if as_text is not data:
            data = as_text
            value, errors = _try(model, data)
    for where, message in _messages(model, data, errors, path):
        document.problems.append(document.problem(message, where))
    return value


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean x?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean x?` for the nearest known word, or the known words if they are few, or nothing."""
    words = sorted(set(known))
    return nearest(word, words) or (f"; known: {', '.join(words)}" if 0 < len(words) <= 8 else "")


def noun(value: object) -> str:
    """What a value is, in the words of a person who writes YAML."""
    if value is None:
        return "empty"
    for types, word in (
        ((bool,), "true or false"),
        ((int,), "a number"),
        ((float,), "a decimal number"),
        ((str,), "text"),
        ((list, tuple), "a list"),
        ((dict,), "a mapping"),
    ):
        if isinstance(value, types):
            return word
    return type(value).__name__


def _try(model: type[Model], data: dict[str, Any]) -> tuple[Model | None, list[ErrorDetails]]:
    """The model or the errors. A secret's file that cannot be read does not hide what else is wrong."""
    found: list[ErrorDetails] = []
    rest = dict(data)
    secrets = model.secrets if issubclass(model, Settings) else ()
    for _ in range(len(secrets) + 1):
        try:
            value = model.model_validate(rest)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
        else:
            return (None, found) if found else (value, [])
        found += [error for error in errors if error not in found]
        name = _secret_at_fault(errors, secrets)
        if name is None:
            break
        rest.pop(f"{name}_file", None)
        rest.setdefault(name, "")
    return None, found


def _without_bare_seconds(
    model: type[BaseModel], data: dict[str, Any], path: Path, document: Document
) -> dict[str, Any]:
    """A duration is a float once it has been read, so a float in the file would pass for seconds: made text, it is
    refused."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        if isinstance(data.get(key), float) and is_duration(field):
            scalar = document.scalars.get((*path, key))
            data = {**data, key: scalar.text if scalar else str(data[key])}
    return data


def _secret_at_fault(errors: list[ErrorDetails], secrets: tuple[str, ...]) -> str | None:
    if len(errors) != 1 or errors[0]["loc"]:
        return None
    context = errors[0].get("ctx", {})
    name = str(context.get("name", "") if errors[0]["type"] == "not_both" else (*context.get("at", ()), "")[0])
    return name.removesuffix("_file") if name.removesuffix("_file") in secrets else None


def _as_text(data: dict[str, Any], path: Path, errors: list[ErrorDetails], document: Document) -> dict[str, Any]:
    changed = data
    for error in errors:
        if error["type"] != "string_type":
            continue
        where = _where(data, error)
        scalar = document.scalars.get((*path, *where))
        if scalar is None or not where or _at(data, where) is None:
            continue
        if changed is data:
            changed = copy.deepcopy(data)
        parent: Any = _at(changed, where[:-1])
        parent[where[-1]] = scalar.text
    return changed


def _messages(
    model: type[BaseModel], data: dict[str, Any], errors: list[ErrorDetails], path: Path
) -> list[tuple[Path, str]]:
    """Where and what, once each, in the order of the data."""
    places = [(_where(data, error), error) for error in errors]
    faults = [(*where, error["loc"][-1]) if error["type"] == "missing" else where for where, error in places]
    wanted: dict[Path, list[str]] = {}
    messages: list[tuple[Path, str]] = []
    for where, error in places:
        below = any(len(fault) > len(where) and fault[: len(where)] == where for fault in faults)
        if error["type"] in _WANTED:
            # One alternative of several does not match; if another does and fails further down, that is the news.
            if not below:
                if where not in wanted:
                    messages.append((where, ""))
                wanted.setdefault(where, []).append(_WANTED[error["type"]])
        elif not (error["type"] == "too_short" and below):  # pydantic does not count entries that are wrong
            messages.append(_message(model, data, where, error))
    for i, (where, message) in enumerate(messages):
        if not message:
            kinds = " or ".join(dict.fromkeys(wanted[where]))
            messages[i] = where, f"must be {kinds}, not {noun(_at(data, where))}"
    return [((*path, *where), message) for where, message in dict.fromkeys(messages)]


def _message(model: type[BaseModel], data: dict[str, Any], where: Path, error: ErrorDetails) -> tuple[Path, str]:
    kind, context, loc = error["type"], error.get("ctx", {}), error["loc"]
    if kind == "missing":
        name = str(loc[-1])
        owner = _model_at(model, loc[:-1])
        alternative = f" (or {name}_file)" if owner and name in getattr(owner, "secrets", ()) else ""
        return (*where, name), f"is required{alternative}"
    if kind == "extra_forbidden":
        owner = _model_at(model, loc[:-1])
        return where, "is not a known key" + suggestion(str(loc[-1]), keys(owner) if owner else ())
    if kind in ("literal_error", "enum"):
        value = _at(data, where)
        message = f"must be {context['expected'].replace(chr(39), '')}"
        if isinstance(value, str | int | float):
            message += f", not {value!r}"
        return where, message
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return where, f"must be {words} {context[key]}"
    if kind == "too_short":
        return where, f"must have at least {context['min_length']} entries".replace(" 1 entries", " one entry")
    if kind == "string_too_short":
        return where, "must not be empty" if context[
            "min_length"
        ] == 1 else f"must have {context['min_length']} characters"
    if kind in ("value_error", "assertion_error"):
        cause = context.get("error")
        if isinstance(cause, TemplateError):
            return (*where, *_parts(cause.place)), cause.message
        return where, str(cause or error["msg"])
    if kind.startswith("url_"):
        return where, "must be a URL, as in https://example.com/path"
    if "at" in context:
        return (*where, *context["at"]), error["msg"]
    return where, error["msg"].replace("Input should be", "must be").replace("Input should", "must")


def _parts(place: str) -> Path:
    return tuple(int(index) if index else key for key, index in re.findall(r"\.?([^.\[\]]+)|\[(\d+)\]", place))


def _where(data: object, error: ErrorDetails) -> Path:
    """The part of pydantic's location that is in the data: it also names alternatives of unions and missing fields."""
    where: list[str | int] = []
    for part in error["loc"]:
        if (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        ):
            data = data[part]  # type: ignore[index]
            where.append(part)
    return tuple(where)


def _at(data: Any, where: Path) -> Any:
    for part in where:
        data = data[part]
    return data


def keys(model: type[BaseModel]) -> list[str]:
    """The keys that a model takes in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model whose fields stand at `loc`."""
    current: type[BaseModel] | None = model
    for part in loc:
        if current is None:
            return None
        fields = {field.alias or name: field for name, field in current.model_fields.items()}
        if part in fields:
            inner = [*_models_in(fields[str(part)].annotation)]
            current = inner[0] if len(inner) == 1 else None
    return current


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
