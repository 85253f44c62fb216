"""What a request must look like, in the order and the words of Novu's errors."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tocsin_demo.inbox.answers import bad_request

MAX_EVENTS = 100


def parse(raw: bytes, content_type: str) -> Any:
    """The JSON of a request body; `{}` where Novu sees no JSON (another content type, an empty body).

    Raises `RejectedError` (400) for malformed JSON.
    """
    if not raw or content_type != "application/json":
        return {}
    try:
        return json.loads(raw.decode(), parse_float=_number, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        what = "Unexpected token"
        if error.msg.startswith("Expecting property name"):
            what = "Expected double-quoted property name"
        raise bad_request(f"{what} in JSON at position {error.pos}") from None
    except (ValueError, RecursionError):
        raise bad_request("request body is not JSON") from None


def _number(text: str) -> float | None:
    # JavaScript reads 1e999 as Infinity and writes that as null; JSON has neither.
    value = float(text)
    return value if math.isfinite(value) else None


def _no_constant(text: str) -> NoReturn:
    raise json.JSONDecodeError("Unexpected token", text, 0)


def fields_of(body: Any) -> Mapping[str, Any]:
    """The body as an object: Novu takes an array (or a string in a bulk) for an object without fields."""
    return body if isinstance(body, dict) else {}


def single(body: Any) -> Mapping[str, Any]:
    """The fields of a single trigger. Raises `RejectedError` with one sentence per error."""
    fields = fields_of(body)
    errors = _string(fields, "name", required=True)
    errors += [f"{name} must be an object" for name in ("payload", "overrides") if not _is_object(fields.get(name))]
    errors += [] if fields.get("to") is not None else ["to should not be null or undefined"]
    errors += _string(fields, "transactionId")
    if errors:
        raise bad_request(errors)
    return fields


def bulk(body: Any) -> Sequence[Any]:
    """The events of a bulk, unchecked. Raises `RejectedError` if the list itself is wrong."""
    events = fields_of(body).get("events")
    too_many, empty = f"events must contain no more than {MAX_EVENTS} elements", "events should not be empty"
    if not isinstance(events, list):
        raise bad_request([too_many, empty, "events must be an array"])
    if not 0 < len(events) <= MAX_EVENTS:
        raise bad_request([too_many if events else empty])
    return events


def bulk_event(event: Any) -> Mapping[str, Any]:
    """The fields of one event of a bulk, which Novu checks by other rules than a single one: a payload is required but
    may be a string, and the name is called identifier. Raises `RejectedError`.
    """
    if event is None:
        raise bad_request("Cannot read properties of null (reading 'name')")
    fields = fields_of(event)
    errors = [] if fields.get("to") is not None else ["to should not be null or undefined"]
    errors += [error.replace("name ", "identifier ", 1) for error in _string(fields, "name", required=True)]
    errors += [] if fields.get("payload") is not None else ["payload should not be null or undefined"]
    errors += _string(fields, "transactionId")
    if errors:
        raise bad_request(errors)
    return fields


def required_fields(payload: Any, required: Sequence[str], *, newer: bool = False) -> None:
    """Raises `RejectedError` if the payload lacks a field that the workflow requires. `newer`: in the words of 3.15.0,
    which also requires an object."""
    missing = [name for name in required if fields_of(payload).get(name) is None]
    if newer:
        lacks = [f"root.{name}: must have required property '{name}'" for name in missing]
        if not _is_object(payload):
            lacks = ["root: must be object"]
        if lacks:
            raise bad_request(f"Payload validation failed: {', '.join(lacks)}")
    elif missing:
        values = ", ".join(f"{name} (Value)" for name in missing)
        raise bad_request(f"payload is missing required key(s) and type(s): {values}")


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _string(fields: Mapping[str, Any], name: str, *, required: bool = False) -> list[str]:
    value = fields.get(name)
    if value is None:
        return [f"{name} should not be null or undefined", f"{name} must be a string"] if required else []
    return [] if isinstance(value, str) else [f"{name} must be a string"]
