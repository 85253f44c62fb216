"""Canonical texts of intervals. Pure; nothing here raises over a value.

A row is identified by its text, and Materialize writes `1 month` in one version and `1 mon` in another. The canonical
text is the one that PostgreSQL writes. All other types have one text, since every session of Tocsin sets how values are
written (`tocsin.postgres.OUTPUT`). Values inside records, lists, maps and JSON are left alone.
"""

import functools
import re
from collections.abc import Callable

from tocsin.model import Columns, Row

_INTERVALS = (1186, 1187)
"""The type numbers of `interval` and `interval[]`."""
_PART = r"([-+]?)(?:(\d+) (year|mon|day)(?:th)?s?|(\d{2,}:\d\d:\d\d(?:\.\d+)?))"
_PARTS = re.compile(_PART)
_INTERVAL = re.compile(rf"{_PART}(?: {_PART})*")
_ELEMENT = re.compile(r'[^{},"]+')


def respelling(columns: Columns) -> Callable[[Row], Row] | None:
    """A function that gives a row of these columns its canonical texts; None if no column needs it."""
    places = [place for place, column in enumerate(columns) if column.oid in _INTERVALS]

    def respelled(row: Row) -> Row:
        for place in places:
            text = row[place]
            if text is not None and ("month" in text or "-" in text):
                row = (*row[:place], _canonical(text), *row[place + 1 :])
        return row

    return respelled if places else None


@functools.lru_cache(maxsize=4096)
def _canonical(text: str) -> str:
    """The text of an interval or an array of intervals; a text that is neither is left alone."""
    return _ELEMENT.sub(lambda element: _interval(element[0]), text)


def _interval(text: str) -> str:
    if not _INTERVAL.fullmatch(text):
        return text
    parts, below = [], False
    for sign, number, unit, time in _PARTS.findall(text):
        # A part above zero has a sign only after one below zero, and is plural unless it is one.
        plus, below = "+" if below else "", sign == "-"
        plural = "" if number == "1" and not below else "s"
        parts.append(("-" if below else plus) + (time or f"{number} {unit}{plural}"))
    return " ".join(parts)
