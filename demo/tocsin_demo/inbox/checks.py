"""What a request must look like, in the order and the words in which Novu complains."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tocsin_demo.inbox.answers import bad_request

MAX_EVENTS = 100


def _number(text: str) -> float | None:
    # JavaScript reads 1e999 as Infinity and writes that as null; JSON has neither.
    value = float(text)
    return value if math.isfinite(value) else None


def _no_constant(text: str) -> NoReturn:
    raise json.JSONDecodeError("Unexpected token", text, 0)


def parse(raw: bytes, content_type: str) -> Any:
    """The JSON of a request body; `{}` where Novu sees no JSON (another content type, an empty body).

    Raises `RejectedError` (400) for malformed JSON.
    """
    if not raw or content_type != "application/json":
        return {}
    try:
        return json.loads(raw.decode(), parse_float=_number, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        what = (
            "Expected double-quoted property name"
            if error.msg.startswith("Expecting property name")
            else "Unexpected token"
        )
        raise bad_request(f"{what} in JSON at position {error.pos}") from None
    except (ValueError, RecursionError):
        raise bad_request("request body is not JSON") from None


def fields_of(body: Any) -> Mapping[str, Any]:
    """The body as an object: Novu takes an array (or a string in a bulk) for an object without fields."""
    return body if isinstance(body, dict) else {}


def single(body: Any, *, broadcast: bool = False) -> Mapping[str, Any]:
    """The fields of a single trigger. Raises `RejectedError` with one sentence per fault."""
    fields = fields_of(body)
    faults = _string(fields, "name", required=True)
    payload = fields.get("payload")
    if not isinstance(payload, dict) and (broadcast or payload is not None):
        faults.append("payload must be an object")
    overrides = fields.get("overrides")
    if overrides is not None and not isinstance(overrides, dict):
        faults.append("overrides must be an object")
    if fields.get("to") is None and not broadcast:
        faults.append("to should not be null or undefined")
    faults += _string(fields, "transactionId")
    if faults:
        raise bad_request(faults)
    return fields


def bulk(body: Any) -> Sequence[Any]:
    """The events of a bulk, unchecked. Raises `RejectedError` where the list itself is wrong."""
    events = fields_of(body).get("events")
    if not isinstance(events, list):
        raise bad_request(
            [
                f"events must contain no more than {MAX_EVENTS} elements",
                "events should not be empty",
                "events must be an array",
            ]
        )
    if len(events) > MAX_EVENTS:
        raise bad_request([f"events must contain no more than {MAX_EVENTS} elements"])
    if not events:
        raise bad_request(["events should not be empty"])
    return events


def bulk_event(event: Any) -> Mapping[str, Any]:
    """The fields of one event of a bulk, which Novu checks by other rules than a single: a payload is a must but may be
    a string, and the name is called identifier. Raises `RejectedError`.
    """
    if event is None:
        raise bad_request("Cannot read properties of null (reading 'name')")
    fields = fields_of(event)
    faults = [] if fields.get("to") is not None else ["to should not be null or undefined"]
    faults += [fault.replace("name ", "identifier ", 1) for fault in _string(fields, "name", required=True)]
    if fields.get("payload") is None:
        faults.append("payload should not be null or undefined")
    faults += _string(fields, "transactionId")
    if faults:
        raise bad_request(faults)
    return fields


def required_fields(payload: Any, required: Sequence[str], *, newer: bool = False) -> None:
    """Raises `RejectedError` if the payload lacks a field that the workflow requires. `newer`: as 3.15.0 says it, which
    also wants an object."""
    given = fields_of(payload)
    if newer:
        lacks = [f"root.{name}: must have required property '{name}'" for name in required if given.get(name) is None]
        if not isinstance(payload, dict | None):
            lacks = ["root: must be object"]
        if lacks:
            raise bad_request(f"Payload validation failed: {', '.join(lacks)}")
        return
    missing = [f"{name} (Value)" for name in required if given.get(name) is None]
    if missing:
        raise bad_request(f"payload is missing required key(s) and type(s): {', '.join(missing)}")


def whole_number(text: str, name: str) -> int:
    """A number in a query. Raises `RejectedError`."""
    try:
        return int(text)
    except ValueError:
        raise bad_request([f"{name} must be a number conforming to the specified constraints"]) from None


def subscriber_id(body: Any) -> str:
    """The id in a request that creates a subscriber. Raises `RejectedError`."""
    fields = fields_of(body)
    faults = _string(fields, "subscriberId", required=True)
    if faults:
        raise bad_request(faults)
    return str(fields["subscriberId"])


def _string(fields: Mapping[str, Any], name: str, *, required: bool = False) -> list[str]:
    value = fields.get(name)
    if value is None:
        return [f"{name} should not be null or undefined", f"{name} must be a string"] if required else []
    return [] if isinstance(value, str) else [f"{name} must be a string"]
