"""Which key of an alert a person means."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tocsin.errors import TocsinError
from tocsin.firing import Phase
from tocsin.model import Columns, Row, fingerprint

NEAREST = 5
"""Keys that are listed where none, or several, match."""
_SIMILAR = 0.4
_COMPARED = 2_000
"""Keys that are compared at most, which takes a second for long ones."""
_FINGERPRINT = re.compile("[0-9a-f]{32}")


class UnknownColumnError(TocsinError):
    """The key names a column that the alert does not have, or has too many values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A key that is known: it is in the firing set, or there are notifications of it."""

    fingerprint: str
    texts: Mapping[str, str | None]
    """The row by column, as the source sent it."""
    phase: Phase | None = None
    """None: it is not in the firing set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person wrote."""

    values: tuple[str, ...] = ()
    """Values in the order of the key columns, `column=value`, or one fingerprint."""
    fingerprint: str | None = None

    def __str__(self) -> str:
        return " ".join(self.values) or self.fingerprint or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Which key is meant. `fingerprint`: None where none was asked about, or none or several match."""

    fingerprint: str | None = None
    matches: int = 0
    nearest: Sequence[Candidate] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    """What was asked about, by column; empty for a fingerprint."""


def candidate(fingerprint: str, columns: Columns, row: Row, phase: Phase | None = None) -> Candidate:
    """Return a key by one of its rows."""
    texts = {column.name: text for column, text in zip(columns, row, strict=False)}
    return Candidate(fingerprint=fingerprint, texts=texts, phase=phase)


def find(asked: Asked, alert: str, key: Sequence[str], candidates: Iterable[Candidate], *, hashed: bool) -> Found:
    """Find the key among the known ones. `key`: the key columns. `hashed`: whether fingerprints are made of them.

    A key that is not known has a fingerprint too, if all key columns are named. Raises UnknownColumnError.
    """
    if asked.fingerprint is not None:
        return Found(fingerprint=asked.fingerprint, matches=1)
    if not asked.values:
        return Found(nearest=[*islice(_distinct(candidates), NEAREST)])
    if len(asked.values) == 1 and _FINGERPRINT.fullmatch(asked.values[0]):
        return Found(fingerprint=asked.values[0], matches=1)
    known = {one.fingerprint: one for one in _distinct(candidates)}
    pairs = _pairs(asked.values, key, known.values())
    matches = _matching(pairs, known.values())
    if len(matches) == 1:
        return Found(fingerprint=matches[0].fingerprint, matches=1, pairs=pairs)
    nearest = matches[:NEAREST] or _nearest(pairs, known.values()) or [*known.values()][:NEAREST]
    if not matches and hashed and key and pairs.keys() == {*key}:
        name = fingerprint(alert, [pairs[column] for column in key])
        return Found(fingerprint=name, nearest=nearest, pairs=pairs)
    return Found(matches=len(matches), nearest=nearest, pairs=pairs)


def _matching(pairs: Mapping[str, str], known: Iterable[Candidate]) -> list[Candidate]:
    """The keys with these values. An empty one is NULL where no key has the empty text: NULL cannot be written."""
    matches = [one for one in known if all((one.texts.get(name) or "") == text for name, text in pairs.items())]
    return [one for one in matches if all(one.texts.get(name) is not None for name in pairs)] or matches


def _distinct(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Each key once, as it comes first: one that fires has notifications, too."""
    seen: set[str] = set()
    for one in candidates:
        if one.fingerprint not in seen:
            seen.add(one.fingerprint)
            yield one


def shown(one: Candidate, key: Sequence[str]) -> dict[str, str | None]:
    """The key of a candidate by column; without key columns the whole row."""
    return {name: one.texts.get(name) for name in key or one.texts}


def _pairs(values: Sequence[str], key: Sequence[str], known: Iterable[Candidate]) -> dict[str, str]:
    """What was written, by column."""
    columns = {*key, *(name for one in known for name in one.texts)}
    pairs: dict[str, str] = {}
    rest = iter(key)
    for value in values:
        name, equals, text = value.partition("=")
        if equals and (name in columns or name.isidentifier()):
            if name not in columns:
                raise UnknownColumnError(f"there is no column {name!r}; {_columns(key, columns)}")
            pairs[name] = text
        elif (column := next(rest, None)) is not None:
            pairs[column] = value
        else:
            raise UnknownColumnError(f"{value!r} belongs to no column; {_columns(key, columns)}")
    return pairs


def _columns(key: Sequence[str], columns: Iterable[str]) -> str:
    if key:
        return f"the key is {', '.join(key)}: write the values in this order, or column=value"
    names = ", ".join(sorted(columns))
    return "there are no key columns: write column=value" + (f", with one of {names}" if names else "")


def _nearest(pairs: Mapping[str, str], known: Iterable[Candidate]) -> list[Candidate]:
    """The keys with the most similar texts."""
    wanted = " ".join(pairs.values())
    some = [*islice(known, _COMPARED)]
    texts = {one.fingerprint: " ".join(one.texts.get(name) or "" for name in pairs) for one in some}
    close = difflib.get_close_matches(wanted, set(texts.values()), n=NEAREST, cutoff=_SIMILAR)
    ordered = sorted((one for one in some if texts[one.fingerprint] in close), key=lambda one: _rank(one, texts, close))
    return ordered[:NEAREST]


def _rank(one: Candidate, texts: Mapping[str, str], close: Sequence[str]) -> int:
    return close.index(texts[one.fingerprint])
