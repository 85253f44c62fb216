"""Canonical texts: one text per value, whatever wrote it. Pure; nothing here ever raises over a value.

A row is identified by its text, and the text of some types depends on the session or the version that writes it. All
sessions of Tocsin have the same settings (`tocsin.postgres.OUTPUT`). Two differences remain: Materialize writes
`1 month` in one version and `1 mon` in another, and a ledger may contain rows that were written in a session with other
settings. The canonical text of each type is what PostgreSQL writes with its default settings, in UTC:

| type | other texts | canonical text |
| --- | --- | --- |
| interval | `1 month -1 day`, `P1M-1D`, `@ 1 mon -1 days`, `+0-1 -1 +0:00:00` | `1 mon -1 days` |
| timestamptz | `2026-01-02 04:04:05+01` | `2026-01-02 03:04:05+00` |
| bytea | `a\\\\b\\001` | `\\x615c6201` |

The same applies inside arrays of them, and inside ranges of timestamptz. Texts of a `DateStyle` other than ISO, and
values inside records, lists, maps and JSON are left alone: nothing in them distinguishes a time from text.
"""

import functools
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from tocsin.model import Columns, Row, Update

Spelling: TypeAlias = Callable[[str], str]
"""The canonical text of a value; a text that it does not know is left alone."""


class Respelling:
    """Gives rows of certain columns their canonical texts. False if no column needs it."""

    def __init__(self, columns: Columns) -> None:
        self._places = [(place, _SPELLINGS[one.oid]) for place, one in enumerate(columns) if one.oid in _SPELLINGS]

    def __bool__(self) -> bool:
        return bool(self._places)

    def row(self, row: Row) -> Row:
        """The row with canonical texts; the same object if nothing changes."""
        changed: list[str | None] | None = None
        for place, spell in self._places:
            text = row[place]
            if text is not None and (new := spell(text)) is not text:
                changed = changed or list(row)
                changed[place] = new
        return row if changed is None else tuple(changed)

    def updates(self, updates: Sequence[Update]) -> Sequence[Update]:
        """The same for the updates of a batch."""
        respelled = self.row
        return [
            update if (row := respelled(update[2])) is update[2] else (update[0], update[1], row) for update in updates
        ]


# Intervals.

_PLAIN = re.compile(
    r"(?:\d+ years?(?: |\Z))?(?:\d+ mons?(?: |\Z))?(?:\d+ days?(?: |\Z))?(?:\d\d+:\d\d:\d\d(?:\.\d+)?)?"
)
"""What most intervals are: canonical already."""

_LONGEST = 100
"""Characters. An interval has fewer, and Python refuses to convert numbers of thousands of digits."""

_TIME = r"(?P<sign>[-+]?)(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)(?P<fraction>\.\d+)?"
_POSTGRES = re.compile(
    r"(?:(?P<years>[-+]?\d+) years? ?)?(?:(?P<months>[-+]?\d+) mon(?:th)?s? ?)?(?:(?P<days>[-+]?\d+) days? ?)?"
    rf"(?:{_TIME})?"
)
_SQL_STANDARD = re.compile(
    rf"(?:(?P<years>[-+]?\d+)-(?P<months>\d+)(?: |\Z))?(?:(?P<days>[-+]?\d+)(?: |\Z))?(?:{_TIME})?"
)
_ISO_8601 = re.compile(
    r"P(?=.)(?:(?P<years>-?\d+)Y)?(?:(?P<months>-?\d+)M)?(?:(?P<days>-?\d+)D)?"
    r"(?:T(?:(?P<hours>-?\d+)H)?(?:(?P<minutes>-?\d+)M)?(?:(?P<seconds>-?\d+)(?P<fraction>\.\d+)?S)?)?"
)
_VERBOSE = re.compile(
    r"@ (?:0|(?:(?P<years>-?\d+) years? ?)?(?:(?P<months>-?\d+) mons? ?)?(?:(?P<days>-?\d+) days? ?)?"
    r"(?:(?P<hours>-?\d+) hours? ?)?(?:(?P<minutes>-?\d+) mins? ?)?(?:(?P<seconds>-?\d+)(?P<fraction>\.\d+)? secs? ?)?"
    r"(?P<ago>ago)?)"
)


def _interval(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    new = _default_style(text)
    return text if new == text else new


@functools.lru_cache(maxsize=4096)
def _default_style(text: str) -> str:
    if len(text) > _LONGEST:
        return text
    for style in (_POSTGRES, _SQL_STANDARD, _ISO_8601, _VERBOSE):
        match = style.fullmatch(text)
        if match is not None:
            break
    else:
        return text
    part = match.groupdict()
    years, months, days, hours, minutes, seconds = (
        int(part[unit] or 0) for unit in ("years", "months", "days", "hours", "minutes", "seconds")
    )
    clock = (part["hours"], part["minutes"], part["seconds"])
    behind = part.get("sign") == "-" or any(unit is not None and unit.startswith("-") for unit in clock)
    if style is _SQL_STANDARD and text[0] == "-":
        # The first sign is that of years and months, and of everything where no other part has one.
        months = -months if part["years"] else months
        if not re.search(r" [-+]", text):
            days, behind = -abs(days), True
    if part.get("ago"):
        years, months, days, behind = -years, -months, -days, not behind
    digits = (part["fraction"] or "").rstrip("0").rstrip(".")
    time = f"{abs(hours):02}:{abs(minutes):02}:{abs(seconds):02}{digits}"
    return _as_postgres((years, months, days), "" if time == "00:00:00" else time, behind=behind)


def _as_postgres(parts: tuple[int, int, int], time: str, *, behind: bool) -> str:
    """What IntervalStyle `postgres` writes: a sign before what is above zero only after something below it. `time`:
    without a sign, empty for none; `behind`: it is below zero."""
    written: list[str] = []
    below = False
    for number, unit in zip(parts, ("year", "mon", "day"), strict=True):
        if number:
            sign = "+" if below and number > 0 else ""
            written.append(f"{sign}{number} {unit}{'' if number == 1 else 's'}")
            below = number < 0
    if time:
        written.append(("-" if behind else "+" if below else "") + time)
    return " ".join(written) or "00:00:00"


# Times and bytes.

_MOMENT = re.compile(r"(?<!\d)(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)?([-+]\d\d(?::\d\d){0,2})(?! BC)")


def _timestamptz(text: str) -> str:
    return text if text.endswith("+00") else _moments(text)


def _moments(text: str) -> str:
    new = _MOMENT.sub(_in_utc, text)
    return text if new == text else new


def _in_utc(match: "re.Match[str]") -> str:
    try:
        moment = datetime.fromisoformat(match[1] + match[3]).astimezone(UTC)
    except (ValueError, OverflowError):
        return match[0]  # the first or last day of what Python can count
    return f"{moment:%Y-%m-%d %H:%M:%S}".rjust(19, "0") + (match[2] or "") + "+00"


_ESCAPED_BYTES = re.compile(r"(?:[ -\[\]-~]|\\\\|\\[0-3][0-7]{2})*")
_ESCAPED_BYTE = re.compile(r"\\(\\|[0-7]{3})")


def _bytea(text: str) -> str:
    if text.startswith("\\x") or not _ESCAPED_BYTES.fullmatch(text):
        return text
    plain = _ESCAPED_BYTE.sub(lambda match: "\\" if match[1] == "\\" else chr(int(match[1], 8)), text)
    return "\\x" + plain.encode("latin-1").hex()


# Arrays.

_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^{},"]+)')
_QUOTED = re.compile(r'[\s{},"\\]')


def _in_array(spell: Spelling) -> Spelling:
    def element(match: "re.Match[str]") -> str:
        quoted, plain = match[1], match[2]
        if plain == "NULL":
            return plain
        text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        new = spell(text)
        if new == text:
            return match[0]
        return '"' + re.sub(r'(["\\])', r"\\\1", new) + '"' if _QUOTED.search(new) else new

    def array(text: str) -> str:
        new = _ELEMENT.sub(element, text)
        return text if new == text else new

    return array


# By type number: the type, its array, and for timestamptz its range and multirange.
_SPELLINGS: dict[int, Spelling] = {
    17: _bytea,
    1001: _in_array(_bytea),
    1184: _timestamptz,
    1185: _moments,
    3910: _moments,
    3911: _moments,
    4534: _moments,
    6153: _moments,
    1186: _interval,
    1187: _in_array(_interval),
}
