"""One text for one value, from any version or session."""

import pytest

from tocsin.firing import Firing, Phase, Rule
from tocsin.firing.canonical import Respelling
from tocsin.model import Column, Columns
from tocsin.pipeline.binding import respelled

TEXT, BYTEA, TIMESTAMPTZ, INTERVAL = 25, 17, 1184, 1186


def one(oid: int) -> Columns:
    return (Column(name="c", oid=oid),)


@pytest.mark.parametrize(
    ("oid", "text", "expected"),
    [
        (INTERVAL, "1 month", "1 mon"),
        (INTERVAL, "1 year 2 months 3 days 04:05:06.7", "1 year 2 mons 3 days 04:05:06.7"),
        (INTERVAL, "-1 month 1 day -00:00:01", "-1 mons +1 day -00:00:01"),
        (INTERVAL, "@ 1 day -2 hours -3 mins ago", "-1 days +02:03:00"),
        (INTERVAL, "-3 1:00:00", "-3 days -01:00:00"),
        (INTERVAL, "+1-0 +0 -4:00:00", "1 year -04:00:00"),
        (INTERVAL, "PT-0.5S", "-00:00:00.5"),
        (INTERVAL, "0", "00:00:00"),
        (1187, '{"1 month",NULL,00:00:01}', '{"1 mon",NULL,00:00:01}'),
        (TIMESTAMPTZ, "2026-01-02 00:30:05.678901+01", "2026-01-01 23:30:05.678901+00"),
        (TIMESTAMPTZ, "1890-01-01 00:53:28+00:53:28", "1890-01-01 00:00:00+00"),
        (
            1185,
            '{"2026-07-02 05:04:05+02","2026-01-02 04:04:05+01"}',
            '{"2026-07-02 03:04:05+00","2026-01-02 03:04:05+00"}',
        ),
        (3910, '["2026-01-02 04:04:05+01",)', '["2026-01-02 03:04:05+00",)'),
        (BYTEA, r"a\\\001", r"\x615c01"),
        (BYTEA, "", r"\x"),
    ],
)
def test_other_texts_become_the_default(oid: int, text: str, expected: str) -> None:
    """What PostgreSQL writes with its default settings, in UTC."""
    respelling = Respelling(one(oid))
    assert respelling.row((text,)) == (expected,)
    assert respelling.row((expected,)) == (expected,)


@pytest.mark.parametrize(
    ("oid", "text"),
    [
        (TEXT, "1 month"),
        (TEXT, "2026-01-02 04:04:05+01"),
        (INTERVAL, "infinity"),
        (INTERVAL, "about a month"),
        (INTERVAL, ""),
        (INTERVAL, "P"),
        (TIMESTAMPTZ, "infinity"),
        (TIMESTAMPTZ, "0044-03-15 12:00:00+01 BC"),
        (TIMESTAMPTZ, "12026-01-02 03:04:05+01"),
        (TIMESTAMPTZ, "0001-01-01 00:00:00+14"),
        (TIMESTAMPTZ, "02.01.2026 03:04:05 CET"),
        (BYTEA, "café"),
        (1001, r'{"\\xdead",NULL}'),
        (1187, "{}"),
        (16384, "{1 month}"),
        (2249, "(1 month)"),
    ],
)
def test_other_types_and_unknown_texts_stay(oid: int, text: str) -> None:
    """The types inside a record or a list are unknown, and not guessed."""
    row = (text,)
    assert Respelling(one(oid)).row(row) is row


def test_null_and_other_columns_stay() -> None:
    respelling = Respelling((*one(INTERVAL), *one(TEXT), *one(INTERVAL)))
    assert respelling.updates([(7, -2, (None, "1 month", "1 month"))]) == [(7, -2, (None, "1 month", "1 mon"))]


def test_rows_without_such_columns_need_no_pass() -> None:
    assert not Respelling((*one(TEXT), *one(23), *one(1700)))


@pytest.mark.parametrize("kept_first", [True, False])
def test_two_stored_keys_of_one_value_become_one(*, kept_first: bool) -> None:
    """One is left over from an upgrade: it ends, and the one in the view keeps firing."""
    firings = [
        Firing(fingerprint=text, phase=phase, started_at=1, marked_at=1, row=(text,), counts=counts)
        for text, phase, counts in (
            ("1 month", Phase.KEEPING, ()),
            ("1 mon", Phase.FIRING, ((1, ("1 mon",)),)),
        )
    ]
    rule = Rule(alert="late", columns=one(INTERVAL), key=(0,))
    kept, ended = respelled(firings if kept_first else firings[::-1], rule)
    assert [(firing.fingerprint, firing.row) for firing in kept] == [("1 mon", ("1 mon",))]
    assert [(firing.fingerprint, firing.row) for firing in ended] == [("1 month", ("1 mon",))]
