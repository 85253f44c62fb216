"""Templates: output, refused constructs, and limits."""

import math
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tocsin.templates import MAX_TEXT, FixedNames, Structure, Template, TemplateCode, TemplateError

ROW = {
    "total": Decimal("12.50"),
    "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "tags": ["a", "b"],
    "meta": {"k": [1, None]},
    "nothing": None,
    "late": True,
    "raw": b"\x01",
    "values": 7,
    "name": "Ann <ann@example.com>",
}
VARIABLES: dict[str, object] = {
    "alert": "late",
    "row": ROW,
    "labels": FixedNames({"customer": "Ann"}),
    "value": 3,
    "previous": None,
}


def rendered(source: str, **variables: object) -> str:
    return Template(source, known={*VARIABLES, *variables}).render(VARIABLES | variables)


def refused(source: object, place: str = "place") -> TemplateError:
    """The error of a text, or of a structure, in compiling or in rendering."""
    with pytest.raises(TemplateError) as caught:
        (Template(source, place=place) if isinstance(source, str) else Structure(source, place=place)).render(VARIABLES)
    return caught.value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain } text", "plain } text"),
        ("{{ row.total }}", "12.50"),
        ("{{ row.at }}", "2026-01-02T03:04:05Z"),
        ("{{ row.at.strftime('%d %b') }}", "02 Jan"),
        ("{{ row.tags }} {{ row.meta }}", '["a", "b"] {"k": [1, null]}'),
        ("[{{ row.nothing }}]", "[]"),
        ("{{ row.late }} {{ row.raw }} {{ value }}", "true \\x01 3"),
        ("{{ row.name | json }}", '"Ann <ann@example.com>"'),
        ("{{ row.meta | tojson }}", '{"k": [1, null]}'),
        ("{{ row.values }}", "7"),
        ("{{ row.total * 2 + 1 }}", "26.00"),
        ("{{ '%.1f' | format(row.total) }}", "12.5"),
        ("{% for tag in row.tags %}{{ loop.index }}{{ tag }} {% endfor %}", "1a 2b "),
        ("{{ previous.total if previous else 'new' }}", "new"),
        ("{{ row.missing | default('-') }} {{ row.missing is defined }}", "- false"),
        ("{% set x = 'a' ~ value %}{{ x }}", "a3"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m(2) }}", "<1><2>"),
        ("{{ 0 | humanize }} {{ 12345678 | humanize }} {{ 0.00123 | humanize }}", "0 12.35M 1.23m"),
        ("{{ -1500 | humanize }} {{ infinite | humanize }} {{ 1e30 | humanize }}", "-1.5k inf 1e+06Y"),
        ("{{ 0.125 | humanize_percentage }}", "12.5%"),
        ("{{ 93784 | humanize_duration }} {{ -90 | humanize_duration }}", "1d 2h 3m 4s -1m 30s"),
        ("{{ 0.25 | humanize_duration }} {{ 0 | humanize_duration }}", "250ms 0s"),
        ("{{ gap | humanize_duration }} {{ infinite | humanize_duration }}", "2m inf"),
    ],
)
def test_values_print_as_in_the_envelope(source: str, expected: str) -> None:
    assert rendered(source, gap=timedelta(minutes=2), infinite=math.inf) == expected


@pytest.mark.parametrize(
    ("source", "code", "line", "name"),
    [
        # Before anything is rendered.
        ("{% if %}", "syntax", 1, ""),
        ("a\n{{ x | nofilter }}", "syntax", 2, ""),
        ("{{ lables.x }}", "unknown_variable", 0, "lables"),
        ("{{ lipsum() }}", "unknown_variable", 0, "lipsum"),
        ("{{ [1, 2] | random }}", "syntax", 1, ""),
        ("{{" + "(" * 500 + "1" + ")" * 500 + "}}", "too_deep", 0, ""),
        # In rendering.
        ("{% include 'x' %}", "failed", 1, ""),
        ("{{ row.custmer }}", "unknown_key", 1, "custmer"),
        ("one\ntwo {{ row['gone'] }}", "unknown_key", 2, "gone"),
        ("{{ labels.custmer }}", "unknown_name", 1, "custmer"),
        ("{{ row[row.nothing] }}", "unknown_key", 1, "None"),
        ("{{ row.nothing.deeper }}", "null", 1, "deeper"),
        ("{{ row.total.deeper }}", "unknown_attribute", 1, "deeper"),
        ("{{ started_at }}", "unset_variable", 1, "started_at"),
        ("{{ row.custmer | upper }}", "unknown_key", 1, "custmer"),
        ("{{ row.custmer ~ 'x' }}", "unknown_key", 1, "custmer"),
        ("{% if row.custmer %}{% endif %}", "unknown_key", 1, "custmer"),
        ("{{ value / 0 }}", "failed", 1, ""),
        ("{{ value + 'x' }}", "failed", 1, ""),
        ("{{ row.name.__class__ }}", "failed", 1, ""),
        ("{{ row.tags.append(1) }}", "failed", 1, ""),
        # How much it may do.
        ("{% for a in range(100000000) %}{% endfor %}", "failed", 1, ""),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too_deep", 1, ""),
        ("{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", "too_deep", 1, ""),
        ("{% for a in range(9999) %}{{ row.name * 50 }}{% endfor %}", "too_long", 0, ""),
    ],
)
def test_error_has_code_place_and_name(source: str, code: str, line: int, name: str) -> None:
    started = time.process_time()
    error = refused(source)
    assert (error.code, error.place, error.line, error.name) == (code, "place", line, name)
    assert str(error).startswith("place: ")
    if code == "unknown_key":
        assert error.available == tuple(ROW)
    assert time.process_time() - started < 2.0


def test_text_within_the_limit_is_rendered() -> None:
    assert len(rendered("{{ row.long }}", row={"long": "x" * MAX_TEXT})) == MAX_TEXT


def test_masked_error_holds_no_secret() -> None:
    error = refused("{{ {'s3cret': 1}['s3cret-too'] }}").masked(lambda text: text.replace("s3cret", "***"))
    assert str(error) == "place: line 1: there is no '***-too' among ***"


class TestStructure:
    def test_single_expression_keeps_its_type(self) -> None:
        shape = {
            "n": "{{ value }}",
            "t": "{{ value }} late",
            "row": "{{ row.meta }}",
            "none": "{{ row.nothing }}",
            "all": ["{{ row.total }}", "{{ row.total | float }}", "{{ row.at }}", "{{ row.raw }}", "{{ row.late }}"],
            "x": "{{ row.tags | map('upper') }}",
        }
        assert Structure(shape).render(VARIABLES) == {
            "n": 3,
            "t": "3 late",
            "row": {"k": [1, None]},
            "none": None,
            "all": ["12.50", 12.5, "2026-01-02T03:04:05Z", "\\x01", True],
            "x": ["A", "B"],
        }

    def test_keys_and_other_values_are_literal(self) -> None:
        shape: Any = {"{{ value }}": [1, 1.5, True, None, {"deep": "plain"}]}
        assert Structure(shape).render(VARIABLES) == shape

    @pytest.mark.parametrize("source", ["{{ 1 }}{{ 2 }}", " {{ 12 }}", "{{ 12 }} ", "{% if 1 %}12{% endif %}"])
    def test_anything_but_one_expression_is_text(self, source: str) -> None:
        assert Structure([source]).render(VARIABLES)[0].strip() == "12"

    @pytest.mark.parametrize(
        ("shape", "place", "code"),
        [
            ({"a": {"b": ["x", "{{ nope }}"]}}, "body.a.b[1]", "unknown_variable"),
            ({"a": "{{ row.nope }}"}, "body.a", "unknown_key"),
            ({"a": "{{ row.nope }} x"}, "body.a", "unknown_key"),
            (["{{ 1 / 0 }}"], "body[0]", "failed"),
            (["{{ }}"], "body[0]", "syntax"),
        ],
    )
    def test_error_names_the_leaf(self, shape: object, place: str, code: str) -> None:
        error = refused(shape, "body")
        assert (error.place, error.code) == (place, code)


class TestForms:
    def test_html_is_escaped_in_values_only(self) -> None:
        row = {"note": "<i>\"'&", "tags": ["<"]}
        source = "<b>{{ row.note }}</b>{{ row.tags }}{{ row.note ~ '<' }}{{ '<hr>' | safe }}"
        text = Template(source, form="html").render({"row": row})
        assert text == "<b>&lt;i&gt;&#34;&#39;&amp;</b>[&#34;&lt;&#34;]&lt;i&gt;&#34;&#39;&amp;&lt;<hr>"

    def test_value_stays_one_part_of_a_url(self) -> None:
        source = "x://{{ row.a }}/{{ row.b }}?c={{ row.a }}"
        text = Template(source, form="url").render({"row": {"a": "1/2?&#@ é", "b": 3}})
        assert text == "x://1%2F2%3F%26%23%40%20%C3%A9/3?c=1%2F2%3F%26%23%40%20%C3%A9"

    @pytest.mark.parametrize("value", [None, ""])
    def test_empty_value_in_a_url_is_an_error(self, value: str | None) -> None:
        with pytest.raises(TemplateError) as caught:
            Template("x://{{ row.a }}", place="url", form="url").render({"row": {"a": value}})
        assert caught.value.code is TemplateCode.EMPTY
