"""Searching, filtering, sorting and paging of the rows that fire."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from support.crowd import NAMES, Crowd, fired
from support.web import FakeProcess
from tocsin.firing import Firing, Phase
from tocsin.web.rows import Listing, Query


@pytest.fixture
def process() -> Crowd:
    """Rows 0 to 19 in the first alert, 20 and 21 in the second."""
    crowd = Crowd(rows=0)
    crowd.fired = {NAMES[0]: [fired(n) for n in range(20)], NAMES[1]: [fired(20), fired(21, phase=Phase.PENDING)]}
    return crowd


async def found(process: FakeProcess, **query: Any) -> tuple[int, list[str]]:
    """How many rows a query finds, and the orders of those on the page, counted from 0."""
    answer = await Listing(process).find(Query(**query))
    return answer["found"], [f"{int(row['labels']['order']) - 1_000_000}" for row in answer["rows"]]


@pytest.mark.parametrize(
    ("words", "orders"),
    [
        (("1000007",), ["7"]),
        (("acme",), ["0", "10", "20"]),
        (("acme", "region=eu-north", "warning"), ["10"]),
        (("acme", "severity=critical"), ["0", "20"]),
        ((NAMES[1], "pending"), ["21"]),
        (("77.5",), ["11"]),
        (("minutes", "late", "glass"), ["6", "16"]),
        (("nothing of it",), []),
    ],
)
async def test_each_word_is_somewhere_in_the_row(process: Crowd, words: tuple[str, ...], orders: list[str]) -> None:
    assert (await found(process, words=words))[1] == orders


@pytest.mark.parametrize(
    ("sort", "descending", "first"),
    [
        ("started", True, ["0", "1"]),
        ("started", False, ["21", "20"]),
        ("value", True, ["21", "20"]),
        ("value", False, ["0", "1"]),
        ("severity", True, ["0", "4"]),
        ("alert", False, ["0", "1"]),
        ("label:customer", False, ["0", "10"]),
        ("label:order", True, ["21", "20"]),
        ("label:none", True, ["0", "1"]),
    ],
)
async def test_rows_are_sorted(process: Crowd, sort: str, descending: bool, first: list[str]) -> None:
    """Equal ones newest first."""
    assert (await found(process, sort=sort, descending=descending, limit=2)) == (22, first)


async def test_numbers_sort_by_size_and_before_texts(process: Crowd) -> None:
    rows = [
        replace(one, row=(text, *one.row[1:]))
        for one, text in zip(process.fired[NAMES[0]], ("10", "9", "x", None), strict=False)
    ]
    process.fired = {NAMES[0]: rows}
    answer = await Listing(process).find(Query(sort="label:order", descending=False))
    assert [row["labels"].get("order") for row in answer["rows"]] == ["9", "10", "x", None]


async def test_page_begins_at_its_offset(process: Crowd) -> None:
    assert await found(process, offset=20, limit=100) == (22, ["20", "21"])
    assert await found(process, offset=22) == (22, [])


async def test_counts_ignore_their_own_filter(process: Crowd) -> None:
    """So that the lists of choices say what another choice would find."""
    answer = await Listing(process).find(Query(words=("acme",), alert=NAMES[0], severity="critical"))
    assert (answer["found"], answer["known"]) == (1, 22)
    assert answer["alerts"] == {NAMES[0]: 1, NAMES[1]: 1}
    assert answer["severities"] == {"critical": 1, "warning": 1}


async def test_changed_rows_are_found_and_former_ones_are_not(process: Crowd) -> None:
    """Also after a change of the alert itself."""
    listing = Listing(process)
    await listing.find(Query(words=("acme",)))
    process.change(NAMES[0], 0, 4321.5)
    del process.fired[NAMES[1]]
    answer = await listing.find(Query(words=("acme",), sort="value"))
    assert [row["value"] for row in answer["rows"]] == [4321.5, 70.5]
    process.summary = "nothing but {{ labels.order }}"
    answer = await listing.find(Query(words=("nothing",), limit=1))
    assert (answer["found"], answer["rows"][0]["summary"]) == (20, "nothing but 1000000")


async def test_rows_that_a_thread_changes_are_as_before(process: Crowd) -> None:
    """Reading them meanwhile raises RuntimeError."""
    listing = Listing(process)
    await listing.find(Query())
    rows = process.rows(NAMES[0])
    assert rows is not None
    process.fired[NAMES[0]] = process.fired[NAMES[0]][:1]
    process.rows = lambda _: replace(rows, firings=_raising())  # type: ignore[assignment,method-assign]
    assert (await listing.find(Query()))["known"] == 22


def _raising() -> Iterator[Firing]:
    yield fired(0)
    raise RuntimeError("dictionary changed size during iteration")
