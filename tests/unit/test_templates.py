"""Templates: what they print, what they refuse, and that none runs away."""

import math
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tocsin.errors import TocsinError
from tocsin.templates import MAX_TEXT, Structure, Template, TemplateCode, TemplateError

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
    "labels": {"customer": "Ann"},
    "value": 3,
    "previous": None,
}


def rendered(source: str, **variables: object) -> str:
    return Template(source).render(VARIABLES | variables)


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
        ("{{ row.name }}", "Ann <ann@example.com>"),
        ("{{ row.name | json }}", '"Ann <ann@example.com>"'),
        ("{{ row.meta | tojson }}", '{"k": [1, null]}'),
        ("{{ row.values }}", "7"),
        ("{{ row.total * 2 + 1 }}", "26.00"),
        ("{{ '%.1f' | format(row.total) }}", "12.5"),
        ("{% for tag in row.tags %}{{ loop.index }}{{ tag }} {% endfor %}", "1a 2b "),
        ("{{ previous.total if previous else 'new' }}", "new"),
        ("{{ row.missing | default('-') }}", "-"),
        ("{{ row.missing is defined }}", "false"),
        ("{% set x = 'a' ~ value %}{{ x }}", "a3"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m(2) }}", "<1><2>"),
    ],
)
def test_what_is_printed(source: str, expected: str) -> None:
    assert rendered(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ 0 | humanize }}", "0"),
        ("{{ 12345678 | humanize }}", "12.35M"),
        ("{{ 0.00123 | humanize }}", "1.23m"),
        ("{{ -1500 | humanize }}", "-1.5k"),
        ("{{ row.total | humanize }}", "12.5"),
        ("{{ infinite | humanize }}", "inf"),
        ("{{ 1e30 | humanize }}", "1e+06Y"),
        ("{{ 0.125 | humanize_percentage }}", "12.5%"),
        ("{{ 93784 | humanize_duration }}", "1d 2h 3m 4s"),
        ("{{ -90 | humanize_duration }}", "-1m 30s"),
        ("{{ 0.25 | humanize_duration }}", "250ms"),
        ("{{ 0 | humanize_duration }}", "0s"),
        ("{{ 3600 | humanize_duration }}", "1h"),
        ("{{ gap | humanize_duration }}", "2m"),
        ("{{ infinite | humanize_duration }}", "inf"),
    ],
)
def test_numbers_for_people(source: str, expected: str) -> None:
    known = {"gap": timedelta(minutes=2), "infinite": math.inf, "row": ROW}
    assert Template(source, known=known).render(known) == expected


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% if %}", "place: line 1: "),
        ("a\n{{ x | nofilter }}", "No filter named 'nofilter'"),
        ("{{ lables.x }}", "place: there is no variable 'lables'; known are alert, annotations, at, "),
        ("{{ lipsum() }}", "there is no variable 'lipsum'"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{% include 'x' %}", "place: "),
        ("{{" + "(" * 500 + "1" + ")" * 500 + "}}", "nested too deep"),
        ("{% for x in y %}" * 30 + "{% endfor %}" * 30, "there is no variable 'y'"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_rendered(source: str, complaint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source, place="place").render(VARIABLES)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ row.custmer }}", "place: line 1: there is no 'custmer' among total, at, tags, "),
        ("one\ntwo {{ row['gone'] }}", "place: line 2: there is no 'gone' among total"),
        ("{{ row.nothing.deeper }}", "'deeper' of something that is NULL"),
        ("{{ previous.total }}", "'total' of something that is NULL"),
        ("{{ row.total.deeper }}", "there is no 'deeper'"),
        ("{{ row.custmer | upper }}", "there is no 'custmer'"),
        ("{{ row.custmer | json }}", "there is no 'custmer'"),
        ("{{ row.custmer ~ 'x' }}", "there is no 'custmer'"),
        ("{% if row.custmer %}{% endif %}", "there is no 'custmer'"),
        ("{{ value / 0 }}", "line 1: ZeroDivisionError"),
        ("{{ value + 'x' }}", "TypeError"),
        ("{{ row.name.__class__ }}", "unsafe"),
        ("{{ row.pop('total') }}", "unsafe"),
        ("{{ row.tags.append(1) }}", "unsafe"),
    ],
)
def test_what_fails_in_rendering_names_place_and_cause(source: str, complaint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source, place="place").render(VARIABLES)
    assert complaint in str(caught.value)
    assert isinstance(caught.value, TocsinError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("{% for a in range(100000000) %}{% endfor %}", TemplateCode.FAILED),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", TemplateCode.TOO_DEEP),
        ("{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}", TemplateCode.TOO_DEEP),
        ("{% for a in range(9999) %}{{ row.long }}{% endfor %}", TemplateCode.TOO_LONG),
    ],
)
def test_output_and_loops_are_limited(source: str, code: TemplateCode) -> None:
    started = time.process_time()
    with pytest.raises(TemplateError) as caught:
        rendered(source, row={"long": "x" * 10_000})
    assert caught.value.code is code
    assert time.process_time() - started < 2.0


def test_a_long_text_that_is_within_the_bound_passes() -> None:
    assert len(rendered("{{ row.long }}", row={"long": "x" * MAX_TEXT})) == MAX_TEXT


def test_rendering_leaves_no_trace_for_the_next() -> None:
    template = Template("{% for i in range(9999) %}{% endfor %}{% set x = 1 %}ok")
    assert [template.render(VARIABLES) for _ in range(5)] == ["ok"] * 5


class TestStructure:
    def test_one_expression_keeps_its_type_and_text_around_it_makes_text(self) -> None:
        shape = {"n": "{{ value }}", "t": "{{ value }} late", "row": "{{ row.meta }}", "none": "{{ row.nothing }}"}
        assert Structure(shape).render(VARIABLES) == {
            "n": 3,
            "t": "3 late",
            "row": {"k": [1, None]},
            "none": None,
        }

    def test_values_are_json_as_in_the_envelope(self) -> None:
        shape = ["{{ row.total }}", "{{ row.total | float }}", "{{ row.at }}", "{{ row.raw }}", "{{ row.late }}"]
        assert Structure(shape).render(VARIABLES) == ["12.50", 12.5, "2026-01-02T03:04:05Z", "\\x01", True]

    def test_generators_become_lists(self) -> None:
        assert Structure({"x": "{{ row.tags | map('upper') }}"}).render(VARIABLES) == {"x": ["A", "B"]}

    def test_keys_are_literal_and_other_values_stand(self) -> None:
        shape: Any = {"{{ value }}": [1, 1.5, True, None, {"deep": "plain"}]}
        assert Structure(shape).render(VARIABLES) == shape

    @pytest.mark.parametrize("source", ["{{ 1 }}{{ 2 }}", " {{ 12 }}", "{{ 12 }} ", "{% if 1 %}12{% endif %}"])
    def test_anything_but_one_expression_is_text(self, source: str) -> None:
        assert Structure([source]).render(VARIABLES)[0].strip() == "12"

    @pytest.mark.parametrize(
        ("shape", "complaint"),
        [
            ({"a": {"b": ["x", "{{ nope }}"]}}, "body.a.b[1]: there is no variable 'nope'"),
            ({"a": "{{ row.nope }}"}, "body.a: there is no 'nope' among"),
            ({"a": "{{ row.nope }} x"}, "body.a: line 1: there is no 'nope' among"),
            (["{{ 1 / 0 }}"], "body[0]: line 1: ZeroDivisionError"),
            (["{{ }}"], "body[0]: line 1: "),
        ],
    )
    def test_errors_name_the_leaf(self, shape: object, complaint: str) -> None:
        with pytest.raises(TemplateError) as caught:
            Structure(shape, place="body").render(VARIABLES)
        assert str(caught.value).startswith(complaint)


class TestForms:
    def test_what_a_template_of_html_prints_is_escaped_but_not_what_is_written_in_it(self) -> None:
        row = {"note": "<i>\"'&", "tags": ["<"]}
        source = "<b>{{ row.note }}</b>{{ row.tags }}{{ row.note ~ '<' }}{{ '<hr>' | safe }}"
        text = Template(source, form="html").render({"row": row})
        assert text == ("<b>&lt;i&gt;&#34;&#39;&amp;</b>[&#34;&lt;&#34;]&lt;i&gt;&#34;&#39;&amp;&lt;<hr>")

    def test_what_a_template_of_an_url_prints_stays_one_part_of_it(self) -> None:
        source = "x://{{ row.a }}/{{ row.b }}?c={{ row.a }}"
        text = Template(source, form="url").render({"row": {"a": "1/2?&#@ é", "b": 3}})
        assert text == "x://1%2F2%3F%26%23%40%20%C3%A9/3?c=1%2F2%3F%26%23%40%20%C3%A9"

    @pytest.mark.parametrize("value", [None, ""])
    def test_an_url_in_which_something_prints_nothing_is_an_error_of_its_own(self, value: str | None) -> None:
        template = Template("x://{{ row.a }}", place="url", form="url")
        with pytest.raises(match="url: an expression prints nothing"):
            template.render({"row": {"a": value}})
