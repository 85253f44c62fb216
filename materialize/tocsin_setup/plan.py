"""What to do so that the server holds what the files say. Pure.

Nothing is replaced that did not change, since a replaced view ends whoever subscribes to it. What a view was made from
is told by a hash at the end of its comment; the comment is the last thing to be written, so an object without a hash
was not finished, or was made by somebody else.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tocsin_setup.errors import PlanError
from tocsin_setup.script import Item, Kind

_MARK = re.compile(r" \[definition (?P<definition>[0-9a-f]{12})(?:, history (?P<history>'.*'))?\]$")
_BYSTANDERS = frozenset({Kind.CLUSTER, Kind.ROLE, Kind.SCHEMA})


class Outcome(StrEnum):
    """What happens to an item."""

    CREATED = "created"
    REPLACED = "replaced"
    CHANGED = "changed"
    """It stays the same object; only its history or its comment is set anew."""
    GRANTED = "granted"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An object in the schema: its kind as the catalog says it, with hyphens, and its comment."""

    kind: str
    comment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What there is: names of clusters, roles and schemas, and the objects in the schema."""

    clusters: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    schemas: frozenset[str] = frozenset()
    objects: Mapping[str, Found] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do about one item: statements in order, none where it stays as it is. `marks` is the comment that
    completes it; `why` says what a person may want to know."""

    item: Item
    outcome: Outcome
    statements: tuple[str, ...] = ()
    marks: str | None = None
    why: str = ""


def plan(items: Sequence[Item], catalog: Catalog, *, history: bool) -> tuple[Step, ...]:
    """One step for each item but settings, which are another connection's business, in the order of the items.

    Args:
        history: whether to ask for RETAIN HISTORY.

    Raises:
        PlanError: something else has the name of an item.
    """
    return tuple(_Planner(items, catalog, history=history).steps())


def unfinished(items: Sequence[Item], catalog: Catalog) -> bool:
    """Whether a view is there without a hash: perhaps somebody else is just making it."""
    there = (catalog.objects.get(item.name) for item in items if item.kind.replaceable)
    return any(found is not None and _mark(found.comment) is None for found in there)


class _Planner:
    def __init__(self, items: Sequence[Item], catalog: Catalog, *, history: bool) -> None:
        self._items = [item for item in items if item.kind is not Kind.SETTING]
        self._catalog = catalog
        self._history = history
        self._dropped: set[str] = set()
        self._replaced: dict[str, str] = {}
        for item in self._items:
            if reason := self._reason_to_replace(item):
                self._replaced[item.name] = reason

    def steps(self) -> Iterator[Step]:
        for item in self._items:
            if item.kind in {Kind.SESSION, Kind.GRANT}:
                outcome = Outcome.GRANTED if item.kind is Kind.GRANT else Outcome.UNCHANGED
                yield Step(item=item, outcome=outcome, statements=(item.create,))
            elif item.kind in _BYSTANDERS:
                yield self._bystander(item)
            elif (found := self._catalog.objects.get(item.name)) is None:
                yield self._made(item, Outcome.CREATED)
            elif item.kind.replaceable and item.name in self._replaced:
                yield self._made(item, Outcome.REPLACED, self._replaced[item.name])
            else:
                yield self._kept(item, found)

    def _reason_to_replace(self, item: Item) -> str | None:
        found = self._catalog.objects.get(item.name) if item.kind.in_schema else None
        if found is None:
            return None
        if found.kind != item.kind.replace(" ", "-"):
            there = found.kind.replace("-", " ")
            raise PlanError(
                f"{item} cannot be made: a {there} has its name. Rename or drop that, or choose another --schema."
            )
        if not item.kind.replaceable:
            return None
        mark = _mark(found.comment)
        if mark is None:
            return "there was no telling what it was made from"
        if mark["definition"] != item.definition:
            return "its definition has changed"
        anew = next((name for name in sorted(item.uses) if name in self._replaced), None)
        return f"reads {anew}, which is made anew" if anew else None

    def _bystander(self, item: Item) -> Step:
        """Clusters, roles and schemas may be shared with others: looked for by name, and left as they are."""
        there = {
            Kind.CLUSTER: self._catalog.clusters,
            Kind.ROLE: self._catalog.roles,
            Kind.SCHEMA: self._catalog.schemas,
        }[item.kind]
        if item.name in there:
            return Step(item=item, outcome=Outcome.UNCHANGED)
        comment = item.commented(item.comment)
        return Step(item=item, outcome=Outcome.CREATED, statements=(item.create,), marks=comment)

    def _made(self, item: Item, outcome: Outcome, why: str = "") -> Step:
        drops: tuple[str, ...] = ()
        create = item.created(history=self._history)
        if outcome is Outcome.REPLACED and item.name not in self._dropped:
            readers = self._readers(item)
            if readers:
                # What others read cannot be replaced; the readers are made anew anyway, since they are in _replaced.
                drops = tuple(one.dropped for one in (*reversed(readers), item))
                self._dropped |= {one.name for one in readers}
            else:
                create = item.replaced(history=self._history)
        if item.history and not self._history:
            why = "; ".join(filter(None, (why, "keeps no history: the server does not offer RETAIN HISTORY")))
        return Step(
            item=item, outcome=outcome, statements=(*drops, create, *item.seeds), marks=self._comment(item), why=why
        )

    def _kept(self, item: Item, found: Found) -> Step:
        mark = _mark(found.comment)
        if mark is None:
            comment = self._comment(item)
            return Step(item=item, outcome=Outcome.CHANGED, statements=item.seeds, marks=comment, why="taken over")
        if mark["definition"] != item.definition:
            why = "its definition has changed, but it holds data; to have it made anew, DROP it ... CASCADE first"
            return Step(item=item, outcome=Outcome.SKIPPED, why=why)
        if item.history and self._history and mark["history"] != item.history:
            alter = f"ALTER {item.kind.upper()} {item.qualified} SET (RETAIN HISTORY FOR {item.history})"
            why = f"keeps history for {item.history}"
            return Step(item=item, outcome=Outcome.CHANGED, statements=(alter,), marks=self._comment(item), why=why)
        if (found.comment or "")[: mark.start()] != item.comment:
            comment = self._comment(item, history=mark["history"])
            return Step(item=item, outcome=Outcome.CHANGED, marks=comment, why="its comment")
        return Step(item=item, outcome=Outcome.UNCHANGED)

    def _readers(self, item: Item) -> list[Item]:
        """Everything there that reads it, directly or not, in the order in which it was made."""
        names = {item.name}
        readers = []
        for other in self._items:
            if other.name in self._catalog.objects and other.kind.replaceable and other.uses & names:
                names.add(other.name)
                if other.name not in self._dropped:
                    readers.append(other)
        return readers

    def _comment(self, item: Item, history: str | None = None) -> str:
        kept = history or (item.history if self._history else None)
        span = f", history {kept}" if kept else ""
        return item.commented(f"{item.comment} [definition {item.definition}{span}]")


def _mark(comment: str | None) -> re.Match[str] | None:
    return _MARK.search(comment or "")
