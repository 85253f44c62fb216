"""The page that says which test proves what names tests that there are, and names one for each promise."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8")
SECTIONS = {
    "Alerts from a stream": 11,
    "Notifications from a stream": 18,
    "Handlers of events in PostgreSQL": 12,
    "Alerts from a queue": 12,
    "Webhooks of a stream": 11,
    "Faults not repeated": 37,
}
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(each.name for each in functions if each.name.startswith("test_"))


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE))))
def test_a_test_that_is_named_is_there(file: str, name: str) -> None:
    assert (ROOT / file).is_file(), file
    assert name in functions_of(file)


def test_nothing_on_the_page_looks_like_a_test_and_is_none() -> None:
    assert len(NAMED.findall(PAGE)) == PAGE.count("::")


def test_the_page_has_these_sections() -> None:
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == [*SECTIONS]


@pytest.mark.parametrize(("title", "promises"), SECTIONS.items())
def test_every_promise_has_a_test(title: str, promises: int) -> None:
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    parts = re.split(r"^(\d+)\. ", section, flags=re.MULTILINE)[1:]
    assert [int(number) for number in parts[::2]] == list(range(1, promises + 1))
    for number, text in zip(parts[::2], parts[1::2], strict=True):
        assert NAMED.findall(text), f"{title} {number}"


@pytest.mark.parametrize("file", ["tests/live/test_flow.py", "tests/live/test_speed.py"])
def test_the_page_names_every_test_of_the_live_flow(file: str) -> None:
    named = {name for where, name in NAMED.findall(PAGE) if where == file}
    assert functions_of(file) - named <= {"test_the_views_have_the_columns_that_the_doubles_of_other_tests_have"}
