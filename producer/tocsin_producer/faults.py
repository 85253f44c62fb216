"""Malformed values, which a consumer has to survive. Pure."""

import json
from collections.abc import Callable
from typing import Any

from tocsin_producer.plan import Flaw


def malformed(flaw: Flaw, fields: dict[str, Any], *, draw: Callable[[], float], size: int) -> bytes | None:
    """The value of an event with a flaw, from the fields of a valid one.

    Args:
        draw: a source of chance in [0, 1), for where and how it breaks.
        size: of an oversized name, in characters.
    """
    match flaw:
        case Flaw.NULL:
            return None
        case Flaw.EMPTY:
            return b""
        case Flaw.BROKEN:
            whole = _encoded(fields)
            return whole[: 1 + int(draw() * (len(whole) - 1))]
        case Flaw.ENCODING:
            return _encoded({**fields, _text_field(fields): "?"}).replace(b'"?"', b'"\xff\xfe\xc3"')
        case Flaw.TYPES:
            return _encoded({name: _other_type(value, draw) for name, value in fields.items()})
        case Flaw.SHAPE:
            return _encoded([[], [fields], "deployment_created", 42, None][int(draw() * 5)])
        case Flaw.TEXT:
            return _encoded({**fields, _text_field(fields): ["a\0b", "half \ud83d of a pair"][int(draw() * 2)]})
        case Flaw.OVERSIZED:
            return _encoded({**fields, _text_field(fields): "x" * size})


def _encoded(value: Any) -> bytes:
    # With escapes: half a surrogate pair has no UTF-8 form.
    return json.dumps(value, separators=(",", ":")).encode()


def _text_field(fields: dict[str, Any]) -> str:
    return "customer_name" if "customer_name" in fields else "bidder"


def _other_type(value: Any, draw: Callable[[], float]) -> Any:
    other = ["seven", None, {"nested": True}] if isinstance(value, int) else [7.5, None, ["a", "list"]]
    return other[int(draw() * 3)]
