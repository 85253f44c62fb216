"""The rows that fire now, searched, filtered, sorted and cut to a page. Pure, apart from pauses for the event loop."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tocsin.firing import Firing
from tocsin.web import views
from tocsin.web.base import Process, Rows

_Item = TypeVar("_Item")

SEVERITY = "severity"
"""The label by which Prometheus's rules name it."""
_RANKS = (
    ("critical", "crit", "page", "emergency", "fatal", "p1"),
    ("error", "err", "high", "major", "p2"),
    ("warning", "warn", "medium", "minor", "p3"),
    ("info", "information", "notice", "low", "p4"),
    ("debug", "none", "p5"),
)
_RANK = {name: rank for rank, names in enumerate(_RANKS) for name in names}
_PART = 2_000
"""Rows that are taken in before other tasks have their turn."""
_CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
"""What is not literal text in a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which rows, in which order."""

    words: tuple[str, ...] = ()
    """Each is somewhere in the alert's name, the columns, the labels, or the fixed words of the summary. In lower
    case."""
    alert: str | None = None
    severity: str | None = None
    """The value of the label `severity`; empty: rows without one."""
    matches: Callable[[Mapping[str, str]], bool] | None = None
    """Decides about the labels, with `alertname` among them."""
    sort: str = "started"
    """`started`, `value`, `alert`, `severity`, or `label:` and a name."""
    descending: bool = True
    offset: int = 0
    limit: int = 100


class _View:
    """How the rows of one alert are read."""

    def __init__(self, rows: Rows) -> None:
        self.alert = rows.alert
        self.name = rows.alert.name
        self._columns = rows.columns
        self._rows = views.RowView(rows.alert, rows.columns)
        literal = _CODE.sub(" ", rows.alert.annotations.get("summary", ""))
        self._fixed = f"{self.name}\n{literal}\n"

    def is_of(self, rows: Rows) -> bool:
        return self.alert == rows.alert and self._columns == rows.columns

    def labels(self, firing: Firing) -> dict[str, str]:
        return self._rows.labels(firing.row)

    def value(self, firing: Firing) -> float:
        value = self._rows.value(firing.row)
        return math.nan if value is None else float(value)

    def text(self, firing: Firing) -> str:
        """What a search looks through. The summary itself would cost a hundred times as much."""
        labels = "\n".join(f"{name}={value}" for name, value in self.labels(firing).items())
        columns = "\n".join(filter(None, firing.row))
        return f"{self._fixed}{labels}\n{columns}\n{firing.phase.value}".lower()

    def shown(self, firing: Firing) -> dict[str, Any]:
        (shown,) = views.firings([firing], self.alert, self._columns, whole=False)
        return shown


class _Entry:
    """One row. What is made of it is kept."""

    __slots__ = ("_text", "firing", "severity", "value", "view")

    def __init__(self, view: _View, firing: Firing) -> None:
        self.view = view
        self.firing = firing
        self.value = view.value(firing)
        self.severity = view.labels(firing).get(SEVERITY, "")
        self._text = ""

    @property
    def text(self) -> str:
        if not self._text:
            self._text = self.view.text(self.firing)
        return self._text

    @property
    def labels(self) -> dict[str, str]:
        return self.view.labels(self.firing)

    def is_of(self, firing: Firing) -> bool:
        before = self.firing
        return before.row is firing.row and before.phase is firing.phase and before.started_at == firing.started_at


class Listing:
    """Keeps what was made of the rows, so that another search costs little. Forgets it when no one asks for a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._entries: dict[str, tuple[int, _View, list[_Entry]]] = {}
        """By alert: the revision, and the rows."""
        self._reading = asyncio.Lock()
        self._used = False

    def forget_unused(self) -> None:
        """Free the memory if there was no search since the last call."""
        if not self._used:
            self._entries.clear()
        self._used = False

    async def find(self, query: Query) -> dict[str, Any]:
        """Return a page of rows as JSON, how many were found, and how many there are by alert and severity."""
        self._used = True
        async with self._reading:
            entries = await self._read()
            return await found(entries, query)

    async def _read(self) -> list[_Entry]:
        revisions = self._process.revisions()
        for name in self._entries.keys() - revisions.keys():
            del self._entries[name]
        for name, revision in revisions.items():
            await self._refresh(name, revision)
        return [entry for name in revisions if name in self._entries for entry in self._entries[name][2]]

    async def _refresh(self, name: str, revision: int) -> None:
        rows = self._process.rows(name)
        if rows is None:
            return
        known, view, former = self._entries.get(name, (None, _View(rows), []))
        if not view.is_of(rows):
            known, view, former = None, _View(rows), []
        if known == revision:
            return
        try:
            firings = list(rows.firings)
        except RuntimeError:
            return  # a thread applies a large batch; what was before is shown until it is done
        kept = {entry.firing.fingerprint: entry for entry in former}
        made: list[_Entry] = []
        async for some in _parts(firings):
            for firing in some:
                entry = kept.get(firing.fingerprint)
                made.append(entry if entry is not None and entry.is_of(firing) else _Entry(view, firing))
        self._entries[name] = revision, view, made


async def _parts(items: Sequence[_Item]) -> AsyncIterator[Sequence[_Item]]:
    """Yield them in parts, and let other tasks have their turn in between."""
    for start in range(0, len(items), _PART):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + _PART]


async def found(entries: Sequence[_Entry], query: Query) -> dict[str, Any]:
    """Return what `Listing.find` does, of these rows."""
    alerts: Counter[str] = Counter()
    severities: Counter[str] = Counter()
    kept: list[_Entry] = []
    async for some in _parts(entries):
        for entry in some:
            if not _has(entry, query):
                continue
            same_alert = query.alert is None or entry.view.name == query.alert
            same_severity = query.severity is None or entry.severity == query.severity
            if same_severity:
                alerts[entry.view.name] += 1
            if same_alert:
                severities[entry.severity] += 1
            if same_alert and same_severity:
                kept.append(entry)
    page = _sorted(kept, query)[query.offset : query.offset + query.limit]
    return {
        "rows": [entry.view.shown(entry.firing) for entry in page],
        "found": len(kept),
        "known": len(entries),
        "alerts": dict(sorted(alerts.items())),
        "severities": dict(sorted(severities.items(), key=lambda item: (severity_rank(item[0]), item[0]))),
    }


def _has(entry: _Entry, query: Query) -> bool:
    if query.words and not all(word in entry.text for word in query.words):
        return False
    return query.matches is None or query.matches({**entry.labels, "alertname": entry.view.name})


def _sorted(entries: list[_Entry], query: Query) -> list[_Entry]:
    """Sort them; rows without what they are sorted by come last, and equal ones newest first."""
    entries.sort(key=lambda entry: entry.firing.started_at, reverse=True)
    if query.sort == "started":
        return entries if query.descending else entries[::-1]
    key, lacks = _key(query.sort)
    has = [entry for entry in entries if not lacks(entry)]
    has.sort(key=key, reverse=query.descending)
    return has + [entry for entry in entries if lacks(entry)]


def _key(sort: str) -> tuple[Callable[[_Entry], Any], Callable[[_Entry], bool]]:
    if sort == "value":
        return (lambda entry: entry.value), (lambda entry: math.isnan(entry.value))
    if sort == "alert":
        return (lambda entry: entry.view.name), (lambda _: False)
    if sort == SEVERITY:
        return (lambda entry: (-severity_rank(entry.severity), entry.severity)), (lambda entry: not entry.severity)
    label = sort.removeprefix("label:")
    return (lambda entry: _natural(entry.labels[label])), (lambda entry: label not in entry.labels)


def _natural(text: str) -> tuple[bool, float, str]:
    """Numbers by their size, before other texts."""
    try:
        number = float(text)
    except ValueError:
        return True, 0.0, text
    return (True, 0.0, text) if math.isnan(number) else (False, number, text)


def severity_rank(severity: str) -> int:
    """The gravest first, as far as names are known."""
    return _RANK.get(severity.lower(), len(_RANKS))
