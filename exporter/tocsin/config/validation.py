"""Validation of plain data by a model. Errors of pydantic become problems, all of them at once."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tocsin.config.problems import Path, Places, dotted, nearest, noun, problem
from tocsin.errors import Problem
from tocsin.settings import FROM_FILE, Settings
from tocsin.templates import TemplateError

Model = TypeVar("Model", bound=Settings)

_WANTED = {
    **dict.fromkeys(("string_type",), "text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"),
    "path_type": "a path",
    "url_type": "a URL",
}
"""Type of an error -> what the value must be, in the words of YAML."""
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


Where = Callable[[Path], str]
"""Path in the data -> path in the configuration."""


def validate(
    model: type[Model],
    data: object,
    path: str,
    places: Places,
    inherited: Mapping[str, str] | None = None,
    needed: Collection[str] = (),
) -> tuple[Model | None, list[Problem]]:
    """Return the model, or None, and everything that is wrong. Where that is in settings that nothing else needs, it is
    both: the model without these settings, so that all else is checked.

    `inherited`: key -> the path of the section that has it, where that is not `path`. `needed`: keys without which a
    later check would report what is not wrong.
    Unquoted numbers and `true`/`false` where text is wanted are taken as the text in the file (`version: 1.10`), which
    is what `password: ${PASSWORD}` needs if the password has digits only.
    """
    if not isinstance(data, dict):
        return None, [places.problem("wrong_type", path, wanted="a mapping", found=noun(data))]

    def where(at: Path) -> str:
        section = (inherited or {}).get(str(at[0]), path) if at else path
        below = dotted(at)
        return section + ("." if section and below and not below.startswith("[") else "") + below

    data, unreadable = model.with_secrets(data)
    value, errors = _tried(model, data)
    if _with_text(data, errors, where, places):
        value, errors = _tried(model, data)
    found = [_invalid(error.type, error.message(), error.context or {}, (), where) for error in unreadable]
    found += [_problem(model, data, at, error, where) for at, error in _relevant(data, errors)]
    if found:
        wrong = [at for at, _ in _relevant(data, errors)]
        separable = all(at and at[0] not in needed for at in wrong) and not any(map(_is_misspelt, found))
        left = {key: value for key, value in data.items() if key not in {at[0] for at in wrong if at}}
        value = _tried(model, left)[0] if separable and not unreadable else None
    return value, list(dict.fromkeys(places.located(one) for one in found))


def _is_misspelt(found: Problem) -> bool:
    return found.code == "unknown_key" and bool(nearest(found.name, found.available))


def keys(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _tried(model: type[Model], data: dict[str, Any]) -> tuple[Model | None, list[ErrorDetails]]:
    try:
        return model.model_validate(data, context=FROM_FILE), []
    except ValidationError as error:
        return None, error.errors(include_url=False, include_input=False)


def _with_text(data: dict[str, Any], errors: list[ErrorDetails], where: Where, places: Places) -> bool:
    """Put the text of the file where text is wanted. Return whether anything changed."""
    changed = False
    for error in errors:
        at = _known_part(data, error)
        _, text = places.scalars.get(where(at), ("", ""))
        if error["type"] == "string_type" and at and text and _value(data, at) is not None:
            parent: Any = data
            for part in at[:-1]:
                parent[part] = copy.copy(parent[part])  # aliases share their values
                parent = parent[part]
            parent[at[-1]] = text
            changed = True
    return changed


def _relevant(data: dict[str, Any], errors: list[ErrorDetails]) -> list[tuple[Path, ErrorDetails]]:
    """The errors with their places in the data; of a union those of the alternative that was meant."""
    placed = [(_known_part(data, error), error) for error in errors]
    deepest = [(*at, error["loc"][-1]) if error["type"] == "missing" else at for at, error in placed]
    relevant: dict[Path, list[ErrorDetails]] = {}
    for at, error in placed:
        below = any(len(other) > len(at) and other[: len(at)] == at for other in deepest)
        # An alternative of the wrong type says nothing if another one failed further down. And pydantic does not count
        # entries that are wrong.
        if not (below and (error["type"] in _WANTED or error["type"] in ("too_short", "literal_error"))):
            relevant.setdefault(at, []).append(error)
    return [(at, one) for at, several in relevant.items() for one in _merged(several)]


def _merged(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """The errors of one value, with a single one for all alternatives of a wrong type."""
    wanted = list(dict.fromkeys(_WANTED[error["type"]] for error in errors if error["type"] in _WANTED))
    others = [error for error in errors if error["type"] not in _WANTED]
    if not wanted:
        return others
    if others and others[0]["type"] == "literal_error":
        choices: str = others[0]["ctx"]["expected"]
        *most, last = [*choices.replace(" or ", ", ").split(", "), *wanted]
        return [{**others[0], "ctx": {"expected": f"{', '.join(most)} or {last}"}}, *others[1:]]
    # An alternative of the right type says what is wrong with the value.
    return others or [{**errors[0], "type": "wrong_type", "ctx": {"wanted": " or ".join(wanted)}}]


def _problem(model: type[BaseModel], data: Any, at: Path, error: ErrorDetails, where: Where) -> Problem:
    kind, context, path = error["type"], error.get("ctx", {}), where(at)
    match kind:
        case "wrong_type":
            return problem("wrong_type", path, wanted=context["wanted"], found=noun(_value(data, at)))
        case "missing":
            name = str(error["loc"][-1])
            owner = _model_at(model, error["loc"][:-1])
            secret = owner is not None and name in getattr(owner, "secrets", ())
            return problem("required", where((*at, name)), alternative=f" (or {name}_file)" if secret else "")
        case "extra_forbidden":
            owner = _model_at(model, error["loc"][:-1])
            return problem("unknown_key", path, name=error["loc"][-1], available=keys(owner) if owner else ())
        case "literal_error" | "enum":
            value = _value(data, at)
            found = f", not {value!r}" if isinstance(value, str | int | float) else ""
            return problem("unknown_choice", path, wanted=context["expected"].replace("'", ""), found=found)
        case "too_short":
            count = context["min_length"]
            return problem("too_few", path, wanted="one entry" if count == 1 else f"{count} entries")
        case "string_too_short" if context["min_length"] == 1:
            return problem("empty", path)
        case "value_error" | "assertion_error":
            cause = context["error"]
            if isinstance(cause, TemplateError):
                return from_template(cause, path + cause.place)
            return Problem(code="invalid", path=path, message=str(cause))
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return problem("out_of_range", path, wanted=f"{words} {context[key]}")
    if kind.startswith("url_"):
        return problem("not_url", path)
    message = error["msg"].replace("Input should be", "must be").replace("Input should", "must")
    return _invalid(kind, message, context, at, where)


def from_template(error: TemplateError, path: str, tried: str = "") -> Problem:
    """Make a problem of what is wrong with a template. `tried`: on what it was tried, in words."""
    text = f"in line {error.line} of the template: {error.text}" if error.line else error.text
    found = problem("template", path, name=error.name, available=error.available, text=text, tried=tried)
    return replace(found, code=f"template_{error.code}")


def _invalid(code: str, message: str, context: Mapping[str, Any], at: Path, where: Where) -> Problem:
    """The problem of an error that `tocsin.settings.invalid` made, or of one of pydantic's that has no text here."""
    path = where((*at, *context.get("at", ())))
    return Problem(code=code, path=path, message=message, name=str(context.get("name", "")))


def _known_part(data: object, error: ErrorDetails) -> Path:
    """The part of pydantic's location that is in the data: it also names alternatives of unions and missing fields."""
    at: list[str | int] = []
    for part in error["loc"]:
        inside = isinstance(data, dict) and part in data
        if inside or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            data = data[part]  # type: ignore[index]
            at.append(part)
    return tuple(at)


def _value(data: Any, at: Path) -> Any:
    for part in at:
        data = data[part]
    return data


def _model_at(model: type[BaseModel], loc: Path) -> type[BaseModel] | None:
    """The model whose fields are at `loc`."""
    current: type[BaseModel] | None = model
    for part in loc:
        fields = {field.alias or name: field for name, field in current.model_fields.items()} if current else {}
        if part in fields:
            inner = [*_models_in(fields[str(part)].annotation)]
            current = inner[0] if len(inner) == 1 else None
    return current


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
