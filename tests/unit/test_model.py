"""Identities: equal for equal things, different for different ones, and the same in every process and version."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from tocsin.model import Column, Kind, Transition, fingerprint, notification_id

TEXT = st.text(st.characters(), max_size=8)  # any code point, lone surrogates too
KEYS = st.lists(st.none() | TEXT, max_size=4)

TRANSITION = Transition(
    alert="late",
    fingerprint=fingerprint("late", ["17"]),
    kind=Kind.FIRED,
    started_at=1_795_242_548_000,
    at=1_795_242_548_000,
    columns=(Column(name="order_id", oid=23),),
    row=("17",),
)


@given(TEXT, KEYS, TEXT, KEYS)
def test_fingerprints_are_equal_only_for_equal_keys(
    alert: str, key: list[str | None], other_alert: str, other: list[str | None]
) -> None:
    same = (alert, key) == (other_alert, other)
    assert (fingerprint(alert, key) == fingerprint(other_alert, other)) is same


def test_fingerprints_keep_texts_apart() -> None:
    keys: list[list[str | None]] = [["a", "b"], ["ab"], ['a","b'], ["a,b"], [None], ["null"], [""], [], ["a", None]]
    assert len({fingerprint("late", key) for key in keys}) == len(keys)
    assert fingerprint("a", ["b", "c"]) != fingerprint('a","b', ["c"])


def test_identities_are_stable_between_versions() -> None:
    # They are stored in ledgers and known to receivers. If this fails, everything that fires is notified again.
    assert fingerprint("late", ["17", None, 'a"b\\c\n€😀']) == "2a44690df83626629d51f67a66133036"
    assert notification_id(TRANSITION, "novu") == "64d62dd486fd715e17219f64f934059c"


@given(st.sampled_from(list(Kind)), st.integers(0, 2**53), st.integers(0, 2**53), TEXT)
def test_id_depends_on_kind_times_and_channel(kind: Kind, started_at: int, at: int, channel: str) -> None:
    parts = (kind, started_at, at, channel)
    base = (TRANSITION.kind, TRANSITION.started_at, TRANSITION.at, "novu")
    other = TRANSITION._replace(kind=kind, started_at=started_at, at=at)
    assert (notification_id(other, channel) == notification_id(TRANSITION, "novu")) is (parts == base)


def test_id_does_not_depend_on_the_row() -> None:
    other = TRANSITION._replace(row=("18", "x"), previous=("19",), columns=())
    assert notification_id(other, "novu") == notification_id(TRANSITION, "novu")


@given(TEXT)
def test_id_needs_no_quoting(channel: str) -> None:
    id_ = notification_id(TRANSITION, channel)
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", id_)
    assert json.dumps(id_) == f'"{id_}"'
