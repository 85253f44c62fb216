"""Times, values and lists in sentences."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tocsin.silences import Silence
from tocsin.templates import duration
from tocsin.values import utc_text

_LONGEST = 60


def moment(at: float, now: float) -> str:
    """A time, and how far it is from now: `2026-11-30T22:04:12.000Z (in 4m 2s)`."""
    text = utc_text(at)
    if text is None:
        return "a time beyond every calendar"
    away = round(abs(at - now))
    if not away:
        return f"{text} (now)"
    return f"{text} ({f'in {duration(away)}' if at > now else f'{duration(away)} ago'})"


def source_moment(milliseconds: int, now: float) -> str:
    """A time of the source."""
    return moment(milliseconds / 1000, now)


def silence_text(silence: Silence, now: float) -> str:
    """A silence with its end, its reason and who made it."""
    by = f" (by {silence.by})" if silence.by else ""
    return f"the silence {silence.id} until {moment(silence.ends_at, now)}: {silence.reason}{by}"


def value(item: Any) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(item, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def pairs(items: Mapping[str, Any]) -> str:
    """Names with values: `region = "eu", team = null`."""
    return ", ".join(f"{name} = {value(item)}" for name, item in items.items())


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def counted(count: int, one: str, many: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {one if count == 1 else many}"


def sentence(text: str) -> str:
    """A text as a sentence: with a capital, unless it begins with something like an address, and a full stop."""
    first = text.split(" ", 1)[0].rstrip(",:;")
    start = text[:1].upper() if first.isalpha() else text[:1]
    return start + text[1:] + ("" if text.endswith((".", "…", "!", "?")) else ".")
