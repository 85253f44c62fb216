"""The envelope as `docs/envelope.md` shows it, and identities: the same in every process and version."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.envelope import ENVELOPE_SCHEMA, Envelope, View, build, scope, variables
from tocsin.model import Column, Kind, Transition, fingerprint, notification_id
from tocsin.templates import VARIABLES, Template

NAMES = ("order_id", "customer", "minutes_late", "total", "promised_at", "items", "courier")
OIDS = (20, 25, 23, 1700, 1184, 3802, 25)
COLUMNS = tuple(Column(name=name, oid=oid) for name, oid in zip(NAMES, OIDS, strict=True))
ROW = ("17", "Ann", "15", "12.50", "2026-11-21 18:30:00+00", '["pizza",{"size":33}]', None)
BEFORE = (*ROW[:2], "11", *ROW[3:])
UPDATE = Transition(
    alert="late_orders",
    fingerprint=fingerprint("late_orders", ["17"]),
    kind=Kind.UPDATED,
    started_at=1_795_286_460_000,
    at=1_795_286_700_250,
    columns=COLUMNS,
    row=ROW,
    previous=BEFORE,
)
ID = notification_id(UPDATE, "ops")
VIEW = View(
    labels=(("customer", "customer"), ("courier", "courier")),
    static_labels=(("team", "delivery"),),
    value="minutes_late",
    annotations={"summary": Template("Order {{ row.order_id }} of {{ labels.customer }} is {{ value }} minutes late")},
)
PAGE = Path(__file__).parents[2] / "docs" / "envelope.md"


def of(text: str | None, oid: int = 25, view: str | None = "v") -> Envelope:
    what = UPDATE._replace(columns=(Column(name="v", oid=oid),), row=(text,), previous=None)
    return build(what, ID, View(value=view))


def test_documented_example_is_what_is_built() -> None:
    example = re.search(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    envelope = build(UPDATE, ID, VIEW)
    assert json.dumps(envelope, ensure_ascii=False) == json.dumps(json.loads(example[1]), ensure_ascii=False)


def test_page_schema_type_and_variables_have_equal_keys() -> None:
    keys, page = list(Envelope.__annotations__), PAGE.read_text(encoding="utf-8")
    assert [key for key in keys if f"| `{key}` |" not in page] == []
    assert list(build(UPDATE, ID, VIEW)) == [key for key in keys if key != "merged"]
    assert list(ENVELOPE_SCHEMA["properties"]) == keys
    assert set(keys) == VARIABLES
    assert set(variables(UPDATE, ID, VIEW)) == VARIABLES - {"merged"}
    assert set(scope(build(UPDATE, ID, VIEW))) == VARIABLES
    assert set(ENVELOPE_SCHEMA["properties"]["status"]["enum"]) == set(Kind)
    assert all(schema["description"] for schema in ENVELOPE_SCHEMA["properties"].values())


def test_labels_are_texts_of_the_row_without_null() -> None:
    view = View(labels=(("total", "total"), ("at", "promised_at")))
    assert build(UPDATE, ID, view)["labels"] == {"total": "12.50", "at": "2026-11-21 18:30:00+00"}
    assert "courier" not in build(UPDATE, ID, VIEW)["labels"]
    assert build(UPDATE._replace(row=(*ROW[:-1], "")), ID, VIEW)["labels"]["courier"] == ""


def test_missing_columns_are_omitted() -> None:
    """Also those beyond the end of a row."""
    assert build(UPDATE._replace(row=("17", "Ann"), previous=()), ID, VIEW)["row"] == {
        "order_id": 17,
        "customer": "Ann",
    }
    old = UPDATE._replace(columns=(Column(name="order_id", oid=20),), row=("17",), previous=None)
    envelope = build(old, ID, VIEW)
    assert envelope["labels"] == {"team": "delivery"}
    assert envelope["value"] is None
    assert envelope["row"] == {"order_id": 17}
    assert envelope["annotations"]["summary"].startswith("<error: ")
    assert "'customer'" in envelope["annotations"]["summary"]


def test_failing_annotation_leaves_the_others() -> None:
    view = replace(VIEW, annotations={"bad": Template("{{ 1 / 0 }}", place="alerts.x.bad"), "good": Template("fine")})
    assert build(UPDATE, ID, view)["annotations"] == {
        "bad": "<error: alerts.x.bad: line 1: division by zero>",
        "good": "fine",
    }


@pytest.mark.parametrize(
    ("text", "oid", "expected"),
    [
        ("3", 23, 3),
        ("3.00", 1700, 3),
        ("2.50", 1700, 2.5),
        ("NaN", 701, "NaN"),
        ("Infinity", 701, "Infinity"),
        ("-Infinity", 701, "-Infinity"),
        ("not a number", 25, "NaN"),
        ("t", 16, 1),
        ("-0", 701, 0),
        (None, 23, None),
    ],
)
def test_value_is_a_number_if_possible(text: str | None, oid: int, expected: object) -> None:
    found = of(text, oid)["value"]
    assert (found, type(found)) == (expected, type(expected))
    json.dumps(of(text, oid), allow_nan=False)


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_286_700_250, "2026-11-21T18:45:00.250Z"),
        (1_795_286_700_999, "2026-11-21T18:45:00.999Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (2**64 - 1, "18446744073709551615"),
    ],
)
def test_times_are_utc_with_milliseconds(milliseconds: int, expected: str) -> None:
    assert build(UPDATE._replace(at=milliseconds), ID, VIEW)["at"] == expected


def test_template_variables_are_python_values() -> None:
    found = variables(UPDATE, ID, replace(VIEW, labels=(("total", "total"), ("courier", "courier"))))
    assert found["at"] == datetime(2026, 11, 21, 18, 45, 0, 250_000, tzinfo=UTC)
    assert found["labels"] == {"team": "delivery", "total": Decimal("12.50"), "courier": None}
    row, previous = found["row"], found["previous"]
    assert isinstance(row, dict)
    assert isinstance(previous, dict)
    assert row["promised_at"] == datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
    assert (previous["minutes_late"], row["minutes_late"], row["courier"]) == (11, 15, None)


# Identities: equal for equal things, different for different ones.


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
