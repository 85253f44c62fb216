"""Templates: output, refused constructs, and limits. NULL and booleans print as in the envelope, and no filter fails on
them: that would make a dead letter."""

import json
import math
import re
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tocsin.templates import MAX_TEXT, Condition, FixedNames, Structure, Template, TemplateCode, TemplateError
from tocsin.templates.environment import environment_of

CASES = (Path(__file__).parent / "golden" / "templates.txt").read_text(encoding="utf-8")
ROW = {
    "id": 7,
    "total": Decimal("12.50"),
    "raw": b"\x01",
    "values": 7,
    "n": None,
    "owner": None,
    "nothing": None,
    "open": True,
    "late": True,
    "shut": False,
    "who": "Ann",
    "name": "Ann <ann@example.com>",
    "tags": ["a", "b"],
    "mixed": ["a", None, True],
    "meta": {"k": [1, None]},
    "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
}
VARIABLES: dict[str, object] = {
    "alert": "late",
    "row": ROW,
    "labels": FixedNames({"customer": "Ann"}),
    "value": 3,
    "previous": None,
    "gap": timedelta(minutes=2),
    "infinite": math.inf,
}
KNOWN = {*VARIABLES, "started_at"}


def refused(source: object, place: str = "place") -> TemplateError:
    """The error of a text, or of a structure, in compiling or in rendering."""
    with pytest.raises(TemplateError) as caught:
        (Template(source, place=place) if isinstance(source, str) else Structure(source, place=place)).render(VARIABLES)
    return caught.value


def result(source: str) -> str:
    try:
        return json.dumps(Template(source, known=KNOWN).render(VARIABLES), ensure_ascii=False)
    except TemplateError as error:
        return f"error {error.code} in line {error.line}" + (f": {error.name}" if error.name else "")


def test_each_template_prints_its_text_or_fails() -> None:
    """`golden/templates.txt` has the templates."""
    cases = re.findall(r"^\n(.*?)\n=> (.*?)\n", CASES, re.DOTALL | re.MULTILINE)
    assert len(cases) == CASES.count("\n=> ")
    started = time.process_time()
    assert [(source, result(source)) for source, _ in cases] == cases
    assert time.process_time() - started < 4.0


def test_error_has_what_exists_instead() -> None:
    error = refused("{{ row.custmer }}")
    assert (error.place, error.available) == ("place", tuple(ROW))
    assert str(error).startswith("place: line 1: ")
    assert refused("{{" + "(" * 500 + "1" + ")" * 500 + "}}").code is TemplateCode.TOO_DEEP


def test_text_within_the_limit_is_rendered() -> None:
    assert len(Template("{{ row.long }}").render({"row": {"long": "x" * MAX_TEXT}})) == MAX_TEXT


def test_masked_error_holds_no_secret() -> None:
    error = refused("{{ {'s3cret': 1}['s3cret-too'] }}").masked(lambda text: text.replace("s3cret", "***"))
    assert str(error) == "place: line 1: there is no '***-too' among ***"


def test_single_expression_keeps_its_type() -> None:
    """Keys and other values are literal."""
    shape: dict[str, Any] = {
        "n": "{{ value }}",
        "t": "{{ value }} late",
        "row": "{{ row.meta }}",
        "none": "{{ row.nothing }}",
        "all": ["{{ row.total }}", "{{ row.total | float }}", "{{ row.at }}", "{{ row.raw }}", "{{ row.late }}"],
        "x": "{{ row.tags | map('upper') }}",
        "{{ value }}": [1, 1.5, True, None, {"deep": "plain"}],
    }
    assert Structure(shape).render(VARIABLES) == {
        "n": 3,
        "t": "3 late",
        "row": {"k": [1, None]},
        "none": None,
        "all": ["12.50", 12.5, "2026-01-02T03:04:05Z", "\\x01", True],
        "x": ["A", "B"],
        "{{ value }}": [1, 1.5, True, None, {"deep": "plain"}],
    }


@pytest.mark.parametrize("source", ["{{ 1 }}{{ 2 }}", " {{ 12 }}", "{{ 12 }} ", "{% if 1 %}12{% endif %}"])
def test_anything_but_one_expression_is_text(source: str) -> None:
    assert Structure([source]).render(VARIABLES)[0].strip() == "12"


@pytest.mark.parametrize(
    ("shape", "place", "code"),
    [
        ({"a": {"b": ["x", "{{ nope }}"]}}, "body.a.b[1]", "unknown_variable"),
        ({"a": "{{ row.nope }}"}, "body.a", "unknown_key"),
        ({"a": "{{ row.nope }} x"}, "body.a", "unknown_key"),
        (["{{ }}"], "body[0]", "syntax"),
    ],
)
def test_error_names_the_leaf(shape: object, place: str, code: str) -> None:
    error = refused(shape, "body")
    assert (error.place, error.code) == (place, code)


def test_html_is_escaped_in_values_only() -> None:
    row = {"note": "<i>\"'&", "tags": ["<"]}
    source = "<b>{{ row.note }}</b>{{ row.tags }}{{ row.note ~ '<' }}{{ '<hr>' | safe }}"
    text = Template(source, form="html").render({"row": row})
    assert text == "<b>&lt;i&gt;&#34;&#39;&amp;</b>[&#34;&lt;&#34;]&lt;i&gt;&#34;&#39;&amp;&lt;<hr>"


def test_value_stays_one_part_of_a_url() -> None:
    """So it must not be empty."""
    url = Template("x://{{ row.a }}/{{ row.b }}?c={{ row.a }}", place="url", form="url")
    assert (
        url.render({"row": {"a": "1/2?&#@ é", "b": 3}})
        == "x://1%2F2%3F%26%23%40%20%C3%A9/3?c=1%2F2%3F%26%23%40%20%C3%A9"
    )
    for value in (None, ""):
        with pytest.raises(TemplateError) as caught:
            url.render({"row": {"a": "x", "b": value}})
        assert caught.value.code is TemplateCode.EMPTY


ARGUMENTS = {
    "batch": "(2)",
    "groupby": "('x')",
    "map": "('upper')",
    "rejectattr": "('x')",
    "replace": "('a', 'b')",
    "selectattr": "('x')",
    "slice": "(2)",
    "attr": "('x')",
}
"""Arguments of the filters that need more than a value."""

NO_BOOLEAN = {"attr", "dictsort", "groupby", "items", "rejectattr", "selectattr"}
"""Filters that need an object or a mapping: a boolean is never one, so that the first rendering shows the fault."""

FILTERS = sorted(name for name in environment_of("text").filters if " " not in name)


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "attr"])
def test_filter_renders_null_as_nothing(name: str) -> None:
    """No error, which would make a dead letter, and not the text `None`."""
    source = f"{{{{ row.owner | {name}{ARGUMENTS.get(name, '')} }}}}"
    if name in ("json", "tojson"):
        expected = {"null"}
    elif name in ("int", "float", "length", "count", "wordcount", "sum"):
        expected = {"0", "0.0"}
    else:
        expected = {"", "[]", "[[], []]"}
    assert Template(source).render({"row": ROW}).strip() in expected
    assert Template(source, form="html").render({"row": ROW}).strip() in expected


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in NO_BOOLEAN])
def test_filter_renders_booleans_as_words(name: str) -> None:
    for value in (True, False):
        text = Template(f"{{{{ row.x | {name}{ARGUMENTS.get(name, '')} }}}}").render({"row": {"x": value}})
        assert text
        assert str(value) not in text or name in ("title", "capitalize")


@pytest.mark.parametrize("source", ["row.n > 3", "row.n * 2 == 4", "row.n is even", "1 in row.owner"])
def test_condition_on_null_is_an_error(source: str) -> None:
    """So that the caller can report it, and take the condition to hold."""
    with pytest.raises(TemplateError):
        Condition(source).holds({"row": ROW})


def test_html_is_escaped_around_null_and_booleans() -> None:
    """The result of a filter on NULL or a boolean is ordinary text."""
    source = (
        "{{ '<b>%s</b>' | format(row.owner) }}{{ '<' ~ row.owner }}{{ ('<i>%s|%s</i>' | safe) | format(none, '<') }}"
    )
    text = Template(source, form="html").render({"row": ROW})
    assert text == "&lt;b&gt;&lt;/b&gt;&lt;<i>|&lt;</i>"
