"""Where a transition goes: to which channels, in which order, merged with what. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tocsin.envelope import CONDITION_VARIABLES, View, seen
from tocsin.model import Address, Columns, Kind, Row, Transition, fingerprint
from tocsin.templates import Condition, TemplateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One channel that an alert notifies. `group_by`: names of columns; `order_by`: the columns whose values events
    are ordered by, none for no order. `interval`: seconds, 0 for "do not merge"."""

    channel: str
    kinds: frozenset[Kind]
    when: str = ""
    interval: float = 0.0
    group_by: tuple[str, ...] = ()
    order_by: tuple[str, ...] = ()


class Router:
    """Addresses the transitions of one alert.

    To a route with `when`, the alert is the view with only the rows for which it holds: a row that changes so that it
    begins to hold fires there, one that ceases to hold resolves.
    """

    def __init__(self, routes: Sequence[Route], view: View, complain: Callable[[str], None]) -> None:
        """`complain` is told, in words, of a condition that cannot be evaluated."""
        self._plain = {
            kind: tuple(Address(channel=route.channel) for route in routes if _is_plain(route) and kind in route.kinds)
            for kind in Kind
        }
        self._particular = [
            (
                route,
                Condition(route.when, place=f"{route.channel}: when", known=CONDITION_VARIABLES)
                if route.when
                else None,
            )
            for route in routes
            if not _is_plain(route)
        ]
        self._view = view
        self._complain = complain

    def addressed(self, transitions: Iterable[Transition]) -> list[tuple[Transition, tuple[Address, ...]]]:
        """Each transition with where it goes. What a condition turns into another kind is another transition."""
        if not self._particular:
            return [(transition, self._plain[transition.kind]) for transition in transitions]
        told = []
        for transition in transitions:
            by_kind: dict[Kind, tuple[Address, ...]] = {transition.kind: self._plain[transition.kind]}
            for route, condition in self._particular:
                kind = transition.kind if condition is None else self._kind(transition, condition)
                if kind is not None and kind in route.kinds:
                    by_kind[kind] = (*by_kind.get(kind, ()), _address(route, _as(transition, kind)))
            told += [(_as(transition, kind), addresses) for kind, addresses in by_kind.items()]
        return told

    def _kind(self, transition: Transition, condition: Condition) -> Kind | None:
        """What the transition is in the view of the rows for which the condition holds; None if it is not in it."""
        holds = self._holds(condition, transition, transition.row)
        if transition.kind is not Kind.UPDATED or transition.previous is None:
            return transition.kind if holds else None
        if self._holds(condition, transition, transition.previous):
            return Kind.UPDATED if holds else Kind.RESOLVED
        return Kind.FIRED if holds else None

    def _holds(self, condition: Condition, transition: Transition, row: Row) -> bool:
        return holds(condition, transition, row, self._view, self._complain)


def holds(condition: Condition, transition: Transition, row: Row, view: View, complain: Callable[[str], None]) -> bool:
    """Whether a condition holds for a row. One that cannot be evaluated does, and `complain` is told why: better a
    notification too many than one too few."""
    try:
        return condition.holds(seen(transition, row, view))
    except TemplateError as error:
        complain(str(error))
        return True


def _is_plain(route: Route) -> bool:
    return not (route.when or route.interval or route.order_by)


def _as(transition: Transition, kind: Kind) -> Transition:
    if kind is transition.kind:
        return transition
    # What resolved is the last row for which the condition held.
    row = transition.previous if kind is Kind.RESOLVED and transition.previous is not None else transition.row
    return replace(transition, kind=kind, row=row, previous=None)


def _address(route: Route, transition: Transition) -> Address:
    """Where a transition goes, by its own row: a `resolved` is merged where its `fired` was.

    Without a column of the group or the order, the transition goes on its own: nothing says that it belongs with
    others, and a digest may be addressed by what its rows have in common.
    """
    if not route.interval and not route.order_by:
        return Address(channel=route.channel)
    names = route.group_by if route.interval else route.order_by
    values = values_of(names, transition.columns, transition.row)
    if values is None:
        return Address(channel=route.channel)
    return Address(channel=route.channel, ordering_key=fingerprint(transition.alert, values), interval=route.interval)


def values_of(names: Sequence[str], columns: Columns, row: Row) -> list[str | None] | None:
    """The texts of some columns of a row, None in place of NULL. None where the row lacks one of the columns: a missing
    column is not NULL (a document may lack a field)."""
    places = {column.name: place for place, column in enumerate(columns)}
    if any(name not in places for name in names):
        return None
    return [row[places[name]] for name in names]
