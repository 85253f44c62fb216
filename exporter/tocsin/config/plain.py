"""Models as plain data, as a file would write them."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from tocsin.settings import Settings

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))


def plain(model: BaseModel) -> dict[str, Any]:
    """Return a model as nested plain data under the keys of the file. Secrets stay the objects that hide them.

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
            result[field.alias or name] = plain_value(field, value)
    return {**result, **(model.__pydantic_extra__ or {})}


def plain_value(field: FieldInfo, value: Any) -> Any:
    """Return the value of a field as plain data."""
    extra = field.json_schema_extra
    is_duration = isinstance(extra, dict) and extra.get("type") == "string" and "pattern" in extra
    return duration(value) if is_duration and value is not None else _plain(value)


def duration(seconds: float) -> str:
    """Write seconds as a Prometheus duration: 5400.0 is `1h30m`."""
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
