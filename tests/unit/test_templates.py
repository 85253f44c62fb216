"""Templates: output, refused constructs, limits, and names. NULL and booleans print as in the envelope, and no filter
fails on them: that would make a dead letter."""

import json
import math
import re
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.channels import defaults
from tocsin.channels.alertmanager.alerts import Shape
from tocsin.channels.alertmanager.settings import Options as AlertmanagerOptions
from tocsin.channels.apprise import Options as AppriseOptions
from tocsin.channels.apprise.channel import _Route as AppriseRoute
from tocsin.channels.base import Message, Rejected
from tocsin.channels.console import _text as console_line
from tocsin.channels.email.mail import Route as MailRoute
from tocsin.channels.email.settings import Options as MailOptions
from tocsin.channels.kafka.records import Route as KafkaRoute
from tocsin.channels.kafka.settings import Options as KafkaOptions
from tocsin.channels.novu.events import Route as NovuRoute
from tocsin.channels.novu.settings import Options as NovuOptions
from tocsin.envelope import Envelope, View, build, merged
from tocsin.model import Column, Kind, Transition
from tocsin.templates import MAX_TEXT, Condition, FixedNames, Structure, Template, TemplateCode, TemplateError
from tocsin.templates.environment import environment_of

CASES = (Path(__file__).parent / "golden" / "templates.txt").read_text(encoding="utf-8")
ROW = {
    "id": 7,
    "total": Decimal("12.50"),
    "amount": "12.50",
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
    "note": "<i>\"'&",
    "path": "1/2?&#@ é",
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


def refused(source: str) -> TemplateError:
    """The error of a template, in compiling or in rendering."""
    with pytest.raises(TemplateError) as caught:
        Template(source, place="place").render(VARIABLES)
    return caught.value


def rendered(case: str) -> object:
    """The result of a case of `golden/templates.txt`."""
    form: Any
    form, source = re.findall(r"^(?:\((json|html|url|when)\) )?(.*)$", case, re.DOTALL)[0]
    if form == "json":
        return Structure(json.loads(source), place="body").render(VARIABLES)
    if form == "when":
        return Condition(source).holds({"row": ROW})
    return Template(source, place="", form=form or "text", known=KNOWN).render(VARIABLES)


def result(case: str) -> str:
    try:
        return json.dumps(rendered(case), ensure_ascii=False)
    except TemplateError as error:
        place = f" of {error.place}" if error.place.startswith("body") else ""
        return f"error {error.code} in line {error.line}{place}" + (f": {error.name}" if error.name else "")


def test_arithmetic_with_text_says_what_to_write() -> None:
    """A numeric column is text in the body of a channel, and Python would print 12.5012.50."""
    text = refused("{{ row.amount * 2 }}").text
    assert "* with a number that is text" in text
    assert "write row.total | float" in text
    assert "12.50" not in text
    assert "join them with ~" in refused("{{ row.who + 1 }}").text


def test_each_template_prints_its_text_or_fails() -> None:
    """`golden/templates.txt` has the templates."""
    cases = re.findall(r"^\n(.*?)\n=> (.*?)\n", CASES, re.DOTALL | re.MULTILINE)
    assert len(cases) == CASES.count("\n=> ")
    started = time.process_time()
    assert [(source, result(source)) for source, _ in cases] == cases
    assert time.process_time() - started < 4.0


def test_arithmetic_without_a_result_is_named() -> None:
    """Decimals report it by names of Python's classes."""
    assert refused("{{ row.total / 0 }}").text.endswith("division by zero")
    assert refused("{{ row.id / 0 }}").text.endswith("division by zero")
    for without in ("(row.total - row.total) / (row.total * 0)", "row.total ** 9999999", "row.total % 0"):
        assert "arithmetic with a numeric column has no result" in refused("{{ " + without + " }}").text


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


ARGUMENTS = {"batch": "(2)", "map": "('upper')", "replace": "('a', 'b')", "slice": "(2)"}
ARGUMENTS |= dict.fromkeys(("attr", "groupby", "rejectattr", "selectattr"), "('x')")
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


# Names of columns, labels and annotations: every name works, also those of methods.

METHODS = [name for name in dir({}) if not name.startswith("__")]
ODD = """
count index loop self super caller range dict namespace true none None not and in if for set filter length merged labels
row value summary alert id status __class__ __getitem__ __html__ _ a.b it's a"b {% #} %s Größe 名前 🍕 1st -
"""
NAMES = st.one_of(
    st.sampled_from([*METHODS, *ODD.split(), "values of", "{{ x }}", " ", "a\nb"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
)
NOVU = NovuOptions(workflow="w", resolved_workflow="w", recipients=["ann"])


def envelope(name: str, where: str = "all", kind: Kind = Kind.FIRED, text: str | None = "pizza") -> Envelope:
    """An envelope with a column, a label or an annotation of this name, or all three."""
    columns = (Column(name="id", oid=23), Column(name=name, oid=25))
    labels = [("id", "id")] if where not in ("label", "all") else [("id", "id"), (name, name)]
    view = View(
        labels=tuple(dict(labels).items()),
        annotations={name: Template("three")} if where in ("annotation", "all") else {},
    )
    what = Transition(
        alert="late",
        fingerprint="0" * 32,
        kind=kind,
        started_at=1_795_242_548_000,
        at=1_795_242_549_000,
        columns=columns,
        row=("17", text),
        previous=("17", "pasta") if kind is Kind.UPDATED else None,
    )
    return build(what, "1" * 32, view)


def message(one: Envelope) -> Message:
    return Message(id=one["id"], alert=one["alert"], kind=Kind(one["status"]), envelope=one)


def sent(one: Envelope) -> dict[str, Any]:
    """What each channel makes of an envelope without templates of the user's own."""
    mail = MailRoute("late", MailOptions(**{"from": "a@example.com", "to": ["b@example.com"]})).mail(message(one), 0.0)
    chat = AppriseRoute("late", AppriseOptions(urls=["json://localhost"])).text(message(one))
    shape = Shape("late", AlertmanagerOptions())
    return {
        "email": mail,
        "apprise": chat,
        "console": console_line(one),
        "novu": NovuRoute("late", NOVU, 500_000).draft(message(one)),
        "kafka": KafkaRoute("late", KafkaOptions(topic="t"), state=False).records(message(one)),
        "alertmanager": shape.active(one, 0.0),
    }


@settings(deadline=None)
@given(
    name=NAMES,
    where=st.sampled_from(["column", "label", "annotation", "all"]),
    kind=st.sampled_from(Kind),
    text=st.none() | st.just("pizza"),
)
def test_every_channel_sends_rows_with_any_name(name: str, where: str, kind: Kind, text: str | None) -> None:
    """No channel rejects it, alone or in a digest."""
    one = envelope(name, where, kind, text)
    for envelopes in (one, merged([one, {**one, "id": "2" * 32}])):
        for channel, result in sent(envelopes).items():
            assert not isinstance(result, Rejected), (channel, result)


def test_default_texts_show_a_time_beyond_every_calendar() -> None:
    """It is a number."""
    one = envelope("note", "label")
    one["started_at"] = str(2**64 - 1)
    for template in (defaults.default("text"), defaults.default("html"), defaults.default("brief")):
        assert re.search(rf"since {2**64 - 1}\s*(<|$)", template.render(defaults.variables(one)), re.MULTILINE)


@pytest.mark.parametrize("where", ["column", "label", "annotation", "all"])
def test_default_texts_show_names_of_methods(where: str) -> None:
    """The value is in the mail, and in the chat where it is a label."""
    for name in METHODS:
        variables = defaults.variables(envelope(name, where))
        expected = "three" if where == "annotation" else "pizza"
        assert f"{name}: {expected}" in defaults.default("text").render(variables)
        assert expected in defaults.default("html").render(variables)
        if where == "label":
            assert f"{name} pizza" in defaults.default("subject").render(variables)
            assert f"{name} pizza" in defaults.default("brief").render(variables)


@settings(deadline=None)
@given(name=NAMES, text=st.none() | st.just("pizza"))
def test_loop_over_a_row_shows_any_name(name: str, text: str | None) -> None:
    """`row.items()` gives the pairs, also where a column is called `items`."""
    variables: Any = {"row": {"id": 17, name: text}, "name": name}
    shown = "" if text is None else text
    for pairs in ("row.items()", "row | items"):
        source = "{% for name, text in PAIRS %}{{ name }}={{ text }};{% endfor %}".replace("PAIRS", pairs)
        expected = f"id={shown};" if name == "id" else f"id=17;{name}={shown};"
        assert Template(source).render(variables) == expected
    source = "{{ row[name] }}{{ row.get(name) }}"
    assert Template(source, known={"row", "name"}).render(variables) == shown * 2


def test_name_after_a_dot_is_the_column() -> None:
    """In text, in JSON and in a condition, and for filters that are given the name."""
    for name in METHODS:
        variables: Any = {"row": {name: 3}, "merged": [{"labels": {name: "b"}}, {"labels": {name: "a"}}]}
        assert Template(f"{{{{ row.{name} }}}}").render(variables) == "3"
        assert Structure({"n": f"{{{{ row.{name} }}}}"}).render(variables) == {"n": 3}
        assert Condition(f"row.{name} == 3").holds(variables)
        source = f"{{{{ merged | map(attribute='labels.{name}') | sort | join }}}}"
        assert Template(source).render(variables) == "ab"


@pytest.mark.parametrize("call", ["row.pop('id')", "row.clear()", "row.update(id=3)", "row.setdefault('x', 1)"])
def test_template_changes_no_row(call: str) -> None:
    """Also where a column has the name of the method."""
    row = {"id": 17, "pop": 1, "clear": 1, "update": 1, "setdefault": 1}
    with pytest.raises(TemplateError):
        Template(f"{{{{ {call} }}}}").render({"row": row})
    assert json.dumps(row) == '{"id": 17, "pop": 1, "clear": 1, "update": 1, "setdefault": 1}'
