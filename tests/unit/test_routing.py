"""Where transitions go: by kind, by condition, in which order."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.envelope import View
from tocsin.model import Address, Column, Columns, Kind, Row, Transition, fingerprint
from tocsin.pipeline.routing import Route, Router

COLUMNS: Columns = (Column(name="id", oid=23), Column(name="severity", oid=25), Column(name="amount", oid=1700))
VIEW = View(labels=(("level", "severity"),), static_labels=(("team", "shop"),), value="amount")
PAGE: Row = ("1", "page", "10.5")
WARN: Row = ("1", "warn", "10.5")


def transition(kind: Kind = Kind.FIRED, row: Row = PAGE, previous: Row | None = None, at: int = 1000) -> Transition:
    return Transition(
        alert="late",
        fingerprint=fingerprint("late", ["1"]),
        kind=kind,
        started_at=1000,
        at=at,
        columns=COLUMNS,
        row=row,
        previous=previous,
    )


def route(channel: str = "out", *, kinds: Sequence[Kind] = tuple(Kind), **rest: Any) -> Route:
    return Route(channel=channel, kinds=frozenset(kinds), **rest)


def router(*routes: Route, complaints: list[str] | None = None) -> Router:
    def complain(message: str) -> None:
        if complaints is None:
            pytest.fail(message)
        complaints.append(message)

    return Router(routes, VIEW, complain)


def kinds(made: Router, what: Transition) -> list[tuple[Kind, list[str]]]:
    """The kinds with their channels, without those that go nowhere."""
    return [
        (one.kind, [address.channel for address in addresses]) for one, addresses in made.addressed([what]) if addresses
    ]


def test_condition_reads_columns_labels_and_value() -> None:
    when = "row.severity in ['page'] and labels.level == 'page' and labels.team == 'shop' and value > 10"
    made = router(route(when=f"{when} and row.amount > 10 and alert == 'late' and started_at.year == 1970"))
    assert kinds(made, transition(row=PAGE)) == [(Kind.FIRED, ["out"])]
    assert kinds(made, transition(row=WARN)) == []


def test_failing_condition_holds_and_is_reported() -> None:
    complaints: list[str] = []
    made = router(route(when="row.amount > 5"), complaints=complaints)
    assert kinds(made, transition(row=("1", "page", None))) == [(Kind.FIRED, ["out"])]
    assert len(complaints) == 1
    assert complaints[0].startswith("out: when: ")


def test_merged_route_has_an_ordering_key_per_group() -> None:
    made = router(route("plain"), route("mail", interval=30.0, group_by=("severity",)), route("sms", interval=5.0))
    [(_, addresses)] = made.addressed([transition()])
    assert addresses == (
        Address(channel="plain"),
        Address(channel="mail", ordering_key=fingerprint("late", ["page"]), interval=30.0),
        Address(channel="sms", ordering_key=fingerprint("late", []), interval=5.0),
    )


@pytest.mark.parametrize(
    ("when", "kinds_and_groups"),
    [
        # What ends is merged where its beginning was.
        ("row.severity == 'page'", [(Kind.FIRED, "page"), (Kind.RESOLVED, "page")]),
        ("", [(Kind.FIRED, "page"), (Kind.UPDATED, "warn"), (Kind.RESOLVED, "warn")]),
    ],
)
def test_changed_group_column_changes_the_group(when: str, kinds_and_groups: list[tuple[Kind, str]]) -> None:
    made = router(route(when=when, interval=30.0, group_by=("severity",)))
    transitions = [transition(), transition(Kind.UPDATED, WARN, PAGE), transition(Kind.RESOLVED, WARN)]
    found = [(one.kind, addresses[0].ordering_key) for one, addresses in made.addressed(transitions) if addresses]
    assert found == [(kind, fingerprint("late", [group])) for kind, group in kinds_and_groups]


def test_events_of_one_key_share_an_ordering_key() -> None:
    """NULL is a value like others."""
    made = router(route(order_by=("id", "severity")))
    [(_, [address])] = made.addressed([transition(Kind.EVENT, ("1", None, "2"))])
    assert address == Address(channel="out", ordering_key=fingerprint("late", ["1", None]))


@pytest.mark.parametrize(
    "rest", [{"order_by": ("id", "missing")}, {"interval": 30.0, "group_by": ("severity", "missing")}]
)
@pytest.mark.parametrize("kind", [Kind.EVENT, Kind.FIRED, Kind.RESOLVED])
def test_row_without_named_column_is_single(rest: dict[str, Any], kind: Kind) -> None:
    """It has no group, so it is neither merged nor ordered with other rows."""
    [(_, [address])] = router(route(**rest)).addressed([transition(kind)])
    assert address == Address(channel="out")


ROWS = st.sampled_from([PAGE, WARN, ("1", "page", "11"), ("1", "warn", "11")])


@given(st.lists(ROWS, min_size=1))
def test_condition_acts_like_a_filtered_view(rows: list[Row]) -> None:
    """The row of one key changes step by step, then goes; compare with the view of the matching rows."""
    made = router(route(when="row.severity == 'page'"))
    transitions = [transition(Kind.FIRED, rows[0])]
    transitions += [transition(Kind.UPDATED, new, old) for old, new in pairwise(rows) if new != old]
    transitions.append(transition(Kind.RESOLVED, rows[-1]))
    found = [(one.kind, one.row) for one, addresses in made.addressed(transitions) if addresses]

    expected: list[tuple[Kind, Row]] = []
    shown: Row | None = None
    for row in [*rows, None]:
        visible = row if row is not None and row[1] == "page" else None
        if shown is None and visible is not None:
            expected.append((Kind.FIRED, visible))
        elif shown is not None and visible is None:
            expected.append((Kind.RESOLVED, shown))
        elif shown is not None and visible is not None and shown != visible:
            expected.append((Kind.UPDATED, visible))
        shown = visible
    assert found == expected
