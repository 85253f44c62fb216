"""NULL and booleans in templates: they print as in the envelope, and no filter fails on them."""

from decimal import Decimal

import pytest

from tocsin.templates import Condition, Structure, Template, TemplateError
from tocsin.templates.environment import environment_of

ROW = {
    "id": 7,
    "owner": None,
    "open": True,
    "shut": False,
    "n": None,
    "total": Decimal("12.50"),
    "tags": ["a", None, True],
    "name": "Ann",
}

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


def rendered(source: str) -> str:
    return Template(source).render({"row": ROW, "value": 0.5, "labels": {}, "previous": None})


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


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("[{{ 'by ' ~ row.owner }}]", "[by ]"),
        ("{{ 'open: ' ~ row.open ~ row.shut }}", "open: truefalse"),
        ("{{ 'by ' + row.owner + '!' }}", "by !"),
        ("{{ 'open: ' + row.open }}", "open: true"),
        ("{{ [row.id, row.owner, row.open] | join(', ') }}", "7, , true"),
        ("{{ row.tags | map('upper') | join('-') }}", "A--TRUE"),
        ("{{ [{'a': none}, {'a': 1}] | join('/', 'a') }}", "/1"),
        ("{{ row.open | upper }} {{ row.shut | length }}", "TRUE 5"),
        ("{{ 'abc' | replace('b', row.owner) | replace('c', row.open) }}", "atrue"),
        ("{{ '%s by %s, %d' | format(row.open, row.owner, row.n) }}", "true by , "),
        ("{{ '%5.1f|%-4s|%d%%' | format(row.n, row.owner, 3) }}", "     |    |3%"),
        ("{{ '%(who)s: %(n)d' | format(who=row.owner, n=row.n) }}", ": "),
        ("{{ '%d' | format(row.open) }}", "1"),
        ("{{ '%s' % row.owner }}{{ '%s-%s' % (row.id, row.open) }}", "7-true"),
        ("{{ '{} {:.2f} {x}'.format(row.owner, row.n, x=row.open) }}", "  true"),
        ("{{ '{owner}/{open}'.format_map(row) }}", "/true"),
        ("{{ ', '.join([row.name, row.owner, row.open]) }}", "Ann, , true"),
        ("{{ 'axb'.replace('x', row.owner) }}", "ab"),
        ("{{ row.owner.strip().upper() }}{{ row.n.strftime('%H') }}", ""),
        ("{{ row.owner | default('-', true) }}", "-"),
        ("{{ row.owner | first }}{{ row.owner | last }}{{ row.owner | max }}", ""),
        ("{{ 12345678 | truncate(4, true, leeway=0) }} {{ row.id | length }}", "1... 1"),
        ("{{ {'a': none, 'b': true} | urlencode }}", "a=&b=true"),
        ("{% for tag in row.owner %}x{% else %}none{% endfor %}", "none"),
        ("{% filter upper %}{{ row.owner }}{{ row.open }}{% endfilter %}", "TRUE"),
        (
            "{{ row.n * 2 }}{{ 1 + row.n }}{{ row.n - 1 }}{{ row.n / 2 }}{{ -row.n }}{{ row.n ** 2 }}{{ row.n // 2 }}",
            "",
        ),
        ("{{ (row.n * 100) | round | humanize }}", ""),
        ("{% if row.n > 10 %}much{% elif 10 >= row.n %}little{% else %}unknown{% endif %}", "unknown"),
        ("{{ 1 < row.n < 3 }} {{ row.n == none }} {{ row.n in [none] }}", "false true true"),
        ("{{ row.n is even }}{{ row.n is gt 3 }}{{ 1 is in row.owner }}", "falsefalsefalse"),
        ("{{ [1, none, 3] | select('gt', 1) | list }}", "[3]"),
    ],
)
def test_null_and_booleans_print_alike(source: str, expected: str) -> None:
    """Also where text is joined, formatted, compared or reckoned with."""
    assert rendered(source) == expected


def test_body_keeps_null_and_types() -> None:
    """The body of a receiver with all fields of one row."""
    body = {
        "by": "{{ 'by ' ~ row.owner }}",
        "up": "{{ row.owner | upper }}",
        "cut": "{{ row.owner | truncate(20) }}",
        "sum": "{{ row.n * 2 }}",
        "rounded": "{{ row.n | round(1) }}",
        "flag": "{{ 'open: ' ~ row.open }}",
        "text": "{{ row.open | string }}",
    }
    assert Structure(body).render({"row": ROW}) == {
        "by": "by ",
        "up": "",
        "cut": "",
        "sum": None,
        "rounded": None,
        "flag": "open: true",
        "text": "true",
    }


@pytest.mark.parametrize(
    "expression",
    [
        *("row.missing ~ 'x'", "row.missing + 'x'", "row.missing * 2", "row.missing | truncate(3)", "row.missing > 3"),
        *("row.missing | first", "row.missing | join", "row.missing.strip()", "row.missing | list"),
    ],
)
def test_missing_column_is_still_an_error(expression: str) -> None:
    """Only NULL is empty: a typo in a name must not leave a gap in a message."""
    for source in (f"{{{{ {expression} }}}}", "{% for x in row.missing %}{% endfor %}"):
        with pytest.raises(TemplateError) as caught:
            rendered(source)
        assert (caught.value.code, caught.value.name) == ("unknown_key", "missing")


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
