"""The parts that configuration models are made of: strictness, durations, secrets, errors."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, LiteralString, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

FROM_FILE = "file"
"""The validation context of data from a configuration file, whose durations are text and whose secrets were read."""

_UNITS = {"y": 31_536_000.0, "w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile("".join(rf"(?:([0-9]+){unit})?" for unit in _UNITS))


def invalid(code: LiteralString, text: LiteralString, *at: str | int, **fields: str | int) -> PydanticCustomError:
    """Make the error that a validator raises. `text` names `fields` in braces. `at` is the place below the value that
    the validator is for: keys and indexes."""
    return PydanticCustomError(code, text, {**fields, "at": at})


def plain(instead: LiteralString) -> AfterValidator:
    """Refuse `{{ }}` in text that is no template. `instead`: what to write."""

    def checked(text: str) -> str:
        if "{{" in text:
            raise invalid("no_template", "is no template, and would be used as it is; {instead}", instead=instead)
        return text

    return AfterValidator(checked)


_WITH_MORE = re.compile(r"[^:]*:[0-9]+|.*://.*", re.DOTALL)


def _host_alone(host: str) -> str:
    if _WITH_MORE.fullmatch(host):
        raise invalid("host_alone", "write the host alone, as in db.example.com; the port is a setting of its own")
    return host


HostAlone = AfterValidator(_host_alone)
"""Refuses `host:port` and URLs where a host is a setting."""


_read: ContextVar[dict[str, str]] = ContextVar("_read")


@contextmanager
def noting_secret_files() -> Iterator[Mapping[str, str]]:
    """Note which files `secret_file` reads within the block: path -> a hash of the content."""
    token = _read.set({})
    try:
        yield _read.get()
    finally:
        _read.reset(token)


def secret_hashes(paths: Iterable[str]) -> dict[str, str]:
    """The hashes of these files now, without those that cannot be read."""
    with noting_secret_files() as found:
        for path in paths:
            with suppress(PydanticCustomError):
                secret_file(path)
    return dict(found)


_instead: ContextVar[Mapping[str, str]] = ContextVar("_instead")


@contextmanager
def instead_of_files(contents: Mapping[str, str]) -> Iterator[None]:
    """Have `secret_file` return these contents (path -> content) within the block, whatever the files hold."""
    token = _instead.set(contents)
    try:
        yield
    finally:
        _instead.reset(token)


def secret_file(path: Any, *at: str) -> str:
    """Read a secret from a file, without one trailing newline and a byte order mark. Raises the error of a validator at
    `at`."""
    if (content := _instead.get({}).get(str(path))) is not None:
        return content.removesuffix("\n")
    try:
        text = Path(path).read_text(encoding="utf-8-sig").removesuffix("\n")
        _read.get({})[str(path)] = sha256(text.encode()).hexdigest()
        return text
    except (OSError, ValueError, TypeError) as error:
        why, name = why_unreadable(error), str(path) if str(path).isprintable() else repr(path)
        raise invalid("unreadable_file", "cannot read {name}: {why}", *at, name=name, why=why) from None


def why_unreadable(error: OSError | ValueError | TypeError) -> str:
    """Return why a text file could not be read."""
    if isinstance(error, OSError):
        return (error.strerror or "it cannot be read").lower()
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return "no file can have this name"


_DIGITS = 12
"""Of a number in a duration. It still is a float, exactly."""


def seconds(value: object) -> float:
    """Convert a Prometheus duration (`30s`, `1h30m`, `500ms`; units from large to small, each at most once; `0`) to
    seconds.

    Raises the error of a validator for anything else, also for other bare numbers: the unit of `30` is not known.
    """
    if value == "0" or (value == 0 and not isinstance(value, bool)):
        return 0.0
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is not None and all(len(n or "") <= _DIGITS for n in match.groups()):
        return sum(int(n) * size for n, size in zip(match.groups(), _UNITS.values(), strict=True) if n)
    raise invalid("duration", "{value} is not a duration; write for example 500ms, 30s, 5m or 1h30m", value=repr(value))


def duration_text(seconds: float) -> str:
    """Write seconds as a Prometheus duration: 5400.0 is `1h30m`."""
    rest, text = round(seconds * 1000), ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, round(_UNITS[unit] * 1000))
        text += f"{count}{unit}" if count else ""
    return text or "0"


def _duration(value: object, info: ValidationInfo) -> object:
    # Code passes seconds; in a file a bare number is refused.
    return value if isinstance(value, float) and info.context != FROM_FILE else seconds(value)


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(duration_text),
    Field(
        json_schema_extra={
            "type": "string",
            "pattern": r"^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
            "examples": ["30s", "5m"],
        }
    ),
]
"""Seconds as a float, read and written as a Prometheus duration."""

Secret = SecretStr


class Settings(BaseModel):
    """The base of every configuration model: unknown keys are refused, values are frozen once read.

    A field in `secrets` may also be set as `<field>_file`: the file is read when the configuration is loaded, without
    one trailing newline. A model lists both fields itself, so that they show in the JSON Schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)
    secrets: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str] = ""
    """The Python package that a source or channel needs besides Tocsin's own dependencies."""

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict) or info.context == FROM_FILE:
            return data
        data, errors = cls.with_secrets(data)
        if errors:
            raise errors[0]
        return data

    @classmethod
    def with_secrets(cls, data: dict[str, Any]) -> tuple[dict[str, Any], list[PydanticCustomError]]:
        """Return the data with the secrets of its `<field>_file`s, and what is wrong with these. A secret that cannot
        be read is empty text, so that the rest can be validated."""
        data, errors = dict(data), []
        for field in cls.secrets:
            path = data.get(f"{field}_file")
            if path is None:
                continue
            try:
                if data.get(field) is not None:
                    raise invalid("not_both", "set {name} or {name}_file, not both", name=field)
                data[field] = secret_file(path, f"{field}_file")
            except PydanticCustomError as error:
                errors.append(error)
                data[field] = ""
                del data[f"{field}_file"]
        return data, errors

    @model_serializer(mode="wrap")
    def _without_read_secrets(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Of a secret that was read from a file, the file is named.
        read = {field for field in self.secrets if getattr(self, f"{field}_file", None) is not None}
        return {key: value for key, value in plain(self).items() if key not in read}

    def as_in_a_file(self) -> dict[str, Any]:
        """Return what is set and every default under the keys of a file. Secrets stay the objects that hide them."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def revised(self, changes: dict[str, Any]) -> Self:
        """Return this model with some fields replaced, validated again."""
        return type(self).model_validate({**{name: getattr(self, name) for name in self.model_fields_set}, **changes})
