"""Which channels a transition goes to, in which order, merged with what. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tocsin.envelope import CONDITION_VARIABLES, View, condition_variables
from tocsin.model import Address, Columns, Kind, Row, Transition, fingerprint
from tocsin.templates import Condition, TemplateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One channel that an alert notifies."""

    channel: str
    kinds: frozenset[Kind]
    when: str = ""
    """A condition on rows; empty: all rows."""
    interval: float = 0.0
    """Seconds within which notifications are merged; 0: they are not."""
    group_by: tuple[str, ...] = ()
    """Columns whose values separate what is merged."""
    order_by: tuple[str, ...] = ()
    """Columns whose values separate events that are sent in order; empty: no order."""

    @property
    def plain(self) -> bool:
        """Whether the address depends on nothing but the kind."""
        return not (self.when or self.interval or self.order_by)


class Router:
    """Addresses the transitions of one alert.

    For a route with `when`, the alert is the view with only the rows for which the condition holds: a row fires there
    when a change makes the condition true, and resolves when a change makes it false.
    """

    def __init__(self, routes: Sequence[Route], view: View, complain: Callable[[str], None]) -> None:
        """`complain` is called with the reason when a condition cannot be evaluated."""
        self._plain = {
            kind: tuple(Address(channel=route.channel) for route in routes if route.plain and kind in route.kinds)
            for kind in Kind
        }
        self._others = [(route, _condition(route)) for route in routes if not route.plain]
        self._view = view
        self._complain = complain

    def addressed(self, transitions: Iterable[Transition]) -> list[tuple[Transition, tuple[Address, ...]]]:
        """Each transition with its addresses. Where a condition makes it another kind, it is another transition."""
        if not self._others:
            return [(transition, self._plain[transition.kind]) for transition in transitions]
        routed = []
        for transition in transitions:
            by_kind: dict[Kind, tuple[Address, ...]] = {transition.kind: self._plain[transition.kind]}
            for route, condition in self._others:
                kind = transition.kind if condition is None else self._kind(transition, condition)
                if kind is not None and kind in route.kinds:
                    by_kind[kind] = (*by_kind.get(kind, ()), address(route, _as(transition, kind)))
            routed += [(_as(transition, kind), addresses) for kind, addresses in by_kind.items()]
        return routed

    def _kind(self, transition: Transition, condition: Condition) -> Kind | None:
        """The kind of the transition among the rows for which the condition holds; None if it is not among them."""
        holds = self._holds(condition, transition, transition.row)
        if transition.kind is not Kind.UPDATED or transition.previous is None:
            return transition.kind if holds else None
        if self._holds(condition, transition, transition.previous):
            return Kind.UPDATED if holds else Kind.RESOLVED
        return Kind.FIRED if holds else None

    def _holds(self, condition: Condition, transition: Transition, row: Row) -> bool:
        return holds(condition, transition, row, self._view, self._complain)


def holds(condition: Condition, transition: Transition, row: Row, view: View, complain: Callable[[str], None]) -> bool:
    """Whether a condition holds for a row. It does if it cannot be evaluated, which is reported to `complain`: better
    one notification too many than one too few."""
    try:
        return condition.holds(condition_variables(transition, row, view))
    except TemplateError as error:
        complain(str(error))
        return True


def _condition(route: Route) -> Condition | None:
    if not route.when:
        return None
    return Condition(route.when, place=f"{route.channel}: when", known=CONDITION_VARIABLES)


def _as(transition: Transition, kind: Kind) -> Transition:
    if kind is transition.kind:
        return transition
    # What resolved is the last row for which the condition held.
    row = transition.previous if kind is Kind.RESOLVED and transition.previous is not None else transition.row
    return transition._replace(kind=kind, row=row, previous=None)


def address(route: Route, transition: Transition) -> Address:
    """The address of a transition, by its own row: a `resolved` is merged where its `fired` was.

    A row that lacks a column of the group or order is sent on its own: nothing says that it belongs with others, and a
    digest may be addressed by what its rows have in common.
    """
    if not route.interval and not route.order_by:
        return Address(channel=route.channel)
    names = route.group_by if route.interval else route.order_by
    values = values_of(names, transition.columns, transition.row)
    if values is None:
        return Address(channel=route.channel)
    return Address(channel=route.channel, ordering_key=fingerprint(transition.alert, values), interval=route.interval)


def values_of(names: Sequence[str], columns: Columns, row: Row) -> list[str | None] | None:
    """The texts of some columns of a row, None for NULL. None if the row lacks one of the columns: a missing column is
    not NULL (a document may lack a field)."""
    places = {column.name: place for place, column in enumerate(columns)}
    if any(name not in places for name in names):
        return None
    return [row[places[name]] for name in names]
