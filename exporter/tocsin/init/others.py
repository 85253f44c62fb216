"""Reading the configuration files of other tools."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tocsin.errors import TocsinError
from tocsin.init.translation import Notes

FILE = "!file "
"""How a text begins that names a file, whose content is meant."""

M = TypeVar("M", bound="Section")


class Section(BaseModel):
    """A part of another tool's file. Keys that are not known here are kept, to be reported."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)


def read(file: str) -> Any:
    """Read a YAML file with query-exporter's tags `!env`, `!file` and `!include`. Raises TocsinError."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TocsinError(f"cannot read {file}: {why}") from None

    class Loader(yaml.SafeLoader):
        """The tags of this file."""

    def tag(name: str, value: Callable[[str], object]) -> None:
        def constructed(loader: yaml.SafeLoader, node: Any) -> object:
            return value(str(loader.construct_scalar(node)))

        Loader.add_constructor(name, constructed)

    tag("!env", lambda variable: "${" + variable + "}")
    tag("!file", lambda name: FILE + _beside(file, name))
    tag("!include", lambda name: read(_beside(file, name)))
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise TocsinError(f"{file}{f':{mark.line + 1}' if mark else ''}: {error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, RecursionError):
        raise TocsinError(f"{file}: not YAML") from None


def _beside(file: str, name: str) -> str:
    path = Path(name)
    return str(path if path.is_absolute() or Path(file).parent == Path() else Path(file).parent / path)


def validated(model: type[M], data: object, file: str) -> M:
    """The data as a model. Raises TocsinError with each place that does not fit, without its value."""
    try:
        return model.model_validate(data if data is not None else {})
    except ValidationError as error:
        each = error.errors(include_input=False)
        found = [f"{file}: {_path(one['loc'])}: {_MESSAGES.get(one['type'], one['msg'])}" for one in each]
        raise TocsinError("\n".join(found)) from None


_MESSAGES = dict.fromkeys(("model_type", "dict_type"), "Input should be a mapping")
"""Of errors whose own would name our classes and types."""


def _path(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "the file"


def unknown_keys(section: Section, path: str, notes: Notes) -> None:
    """Report the keys of a section, and below, that are not known here."""
    for where, name in _extras(section, path):
        notes.lose(f"{where}.{name}" if where else name)


def _extras(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Section):
        yield from ((path, name) for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from _extras(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _extras(one, f"{path}.{name}")
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _extras(one, f"{path}[{place}]")
