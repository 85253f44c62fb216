"""Names of columns, labels and annotations in templates: every name works, also those of methods."""

import json
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
from tocsin.templates import Condition, Structure, Template, TemplateError

METHODS = [name for name in dir({}) if not name.startswith("__")]
ODD = [
    *("count", "index", "loop", "self", "super", "caller", "range", "dict", "namespace", "true", "none", "None", "not"),
    *("and", "in", "if", "for", "set", "filter", "length", "merged", "labels", "row", "value", "values of", "summary"),
    *(
        "alert",
        "id",
        "status",
        "__class__",
        "__getitem__",
        "__html__",
        "_",
        "a.b",
        "it's",
        'a"b',
        "{{ x }}",
        "{%",
        "#}",
    ),
    *("%s", "Größe", "名前", "🍕", "1st", "-", " ", "a\nb"),
]
NAMES = st.one_of(
    st.sampled_from([*METHODS, *ODD]), st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
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
