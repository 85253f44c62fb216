"""Building blocks of configuration models: strictness, durations, secrets. Every model at the border is made of
these."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, LiteralString, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION = re.compile("".join(rf"(?:([0-9]+){unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms")))


def invalid(code: LiteralString, text: LiteralString, *at: str | int, **fields: str | int) -> PydanticCustomError:
    """Make the error that a validator raises. `text` names `fields` in braces. `at` is the place below the value that
    the validator is for: keys and indexes."""
    return PydanticCustomError(code, text, {**fields, "at": at})


def secret_file(path: Any, *at: str) -> str:
    """Read a secret from a file, without one trailing newline. Raises the error of a validator at `at`."""
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError, TypeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else "it is not UTF-8 text"
        raise invalid("unreadable_file", "cannot read {name}: {why}", *at, name=str(path), why=why) from None


def seconds(value: object) -> float:
    """A Prometheus duration (`30s`, `1h30m`, `500ms`; units from large to small, each at most once; `0`) in seconds.

    Raises ValueError for anything else, bare numbers included: `30` could be anything.
    """
    if isinstance(value, str):
        if value == "0":
            return 0.0
        match = _DURATION.fullmatch(value)
        if value and match:
            units = ("y", "w", "d", "h", "m", "s", "ms")
            return sum(int(n) * _UNITS[unit] for n, unit in zip(match.groups(), units, strict=True) if n)
    elif value == 0 and not isinstance(value, bool):
        return 0.0
    raise invalid("duration", "{value} is not a duration; write for example 500ms, 30s, 5m or 1h30m", value=repr(value))


def _duration(value: object) -> object:
    # A default is already a number of seconds; only what people write goes through the grammar.
    return value if isinstance(value, float) else seconds(value)


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    Field(
        json_schema_extra={
            "type": "string",
            "pattern": r"^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
            "examples": ["30s", "5m"],
        }
    ),
]
"""Seconds as a float, written as a Prometheus duration."""

Secret = SecretStr


class Settings(BaseModel):
    """The base of every configuration model: unknown keys are refused, values are frozen once read.

    A field named in `secrets` may also be given as `<field>_file`: the file is read when the configuration is loaded,
    and one trailing newline is dropped. A model lists both fields itself, so that they show in the JSON Schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)
    secrets: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str] = ""
    """The Python package that a source or channel needs beyond those of Tocsin itself."""

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for field in cls.secrets:
            path = data.get(f"{field}_file")
            if path is None:
                continue
            if data.get(field) is not None:
                raise invalid("not_both", "set {name} or {name}_file, not both", name=field)
            data[field] = secret_file(path, f"{field}_file")
        return data

    def revised(self, changes: dict[str, Any]) -> Self:
        """This model with some fields replaced, validated again."""
        return type(self).model_validate({**{name: getattr(self, name) for name in self.model_fields_set}, **changes})
