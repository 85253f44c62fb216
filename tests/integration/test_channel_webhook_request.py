"""What a webhook's templates make of a notification: method, address, query, headers and body, each as it arrives."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from support.messages import message
from support.receiver import Answer
from support.webhooks import Hooks, hooks, sent
from tocsin.channels import webhook
from tocsin.channels.base import Delivered, Rejected
from tocsin.channels.webhook.request import Content, Recipe
from tocsin.envelope import merged, scope
from tocsin.errors import Reason
from tocsin.model import Kind


@pytest.fixture
async def hook() -> AsyncIterator[Hooks]:
    async with hooks() as made:
        yield made


def noted(text: str) -> Any:
    """A message whose row has a column `note`."""
    return message(extra={"note": ("text", text)})


def config(**given: Any) -> webhook.Config:
    return webhook.Config.model_validate({"type": "webhook", "url": "http://127.0.0.1/", **given})


# Every part is a template.


async def test_every_part_of_the_request_is_a_template(hook: Hooks) -> None:
    what = message(Kind.RESOLVED)
    result = await hook.sent(
        what,
        url="/{{ alert }}/{{ row.order_id }}",
        method="{{ 'PUT' if status == 'resolved' else 'POST' }}",
        headers={"X-Customer": "{{ labels.customer }}", "X-Constant": "yes"},
        query={"id": "{{ id }}", "page": "1"},
        body={"late": "{{ value }}"},
    )
    assert result == Delivered()
    [request] = hook.receiver.requests
    assert (request.method, request.path) == ("PUT", f"/late/17?id={what.id}&page=1")
    assert (request.headers["x-customer"], request.headers["x-constant"]) == ("Ann", "yes")
    assert request.json == {"late": 3}


async def test_the_query_is_added_to_that_of_the_url(hook: Hooks) -> None:
    await hook.sent(url="/hook?a=1", query={"a": "2", "b": "x y&z"})
    assert parse_qsl(urlsplit(hook.receiver.requests[0].path).query) == [("a", "1"), ("a", "2"), ("b", "x y&z")]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_get_and_delete_have_no_body(hook: Hooks, method: str) -> None:
    assert await hook.sent(method=method, query={"status": "{{ status }}"}) == Delivered()
    [request] = hook.receiver.requests
    assert (request.method, request.path, request.body) == (method, "/hook?status=fired", b"")
    assert "content-type" not in request.headers


async def test_a_method_that_is_none_is_a_dead_letter(hook: Hooks) -> None:
    result = await hook.sent(method="{{ labels.customer }}")
    assert isinstance(result, Rejected)
    assert (result.reason, result.detail.startswith("late: method: ")) == (Reason.TEMPLATE, True)
    assert not hook.receiver.requests


async def test_what_is_the_same_for_all_is_made_once() -> None:
    fixed = config(
        url="http://127.0.0.1/{{ secrets.path }}",
        headers={"Authorization": "Bearer {{ secrets.token }}"},
        query={"key": "{{ secrets.token }}"},
        secrets={"path": "a/b", "token": "tok"},
    )
    target = Recipe(fixed, {"path": "a/b", "token": "tok"}).constant
    assert target is not None
    assert str(target.url) == "http://127.0.0.1/a/b?key=tok"
    assert target.headers == (("Authorization", "Bearer tok"),)
    assert Recipe(config(headers={"X": "{{ id }}"}), {}).constant is None


async def test_a_value_that_breaks_a_header_is_a_dead_letter(hook: Hooks) -> None:
    what = noted("a\r\nX-Injected: 1")
    result = await hook.sent(what, headers={"X-Note": "{{ row.note }}"})
    assert isinstance(result, Rejected)
    assert result.detail.startswith("late: headers.X-Note: the rendered value is not one line")
    assert not hook.receiver.requests


# No value changes where a request goes.


_ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text not in (".", ".."))


@given(text=_ANY)
def test_a_value_in_the_address_is_one_segment_or_one_parameter_whatever_it_is(text: str) -> None:
    recipe = Recipe(
        config(url="http://127.0.0.1/a/{{ row.note }}/z?x={{ row.note }}&y=1", query={"q": "{{ row.note }}"}), {}
    )
    url = recipe.target(scope(noted(text).envelope)).url
    assert (url.host, url.fragment) == ("127.0.0.1", "")
    _, a, segment, z = str(url).removeprefix("http://127.0.0.1").partition("?")[0].split("/")
    assert (a, unquote(segment), z) == ("a", text, "z")
    assert parse_qsl(url.raw_query_string, keep_blank_values=True) == [("x", text), ("y", "1"), ("q", text)]


@pytest.mark.parametrize("dots", [".", ".."])
async def test_dots_do_not_climb_out_of_the_path(hook: Hooks, dots: str) -> None:
    result = await hook.sent(noted(dots), url="/a/{{ row.note }}/b")
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert not hook.receiver.requests


async def test_a_secret_may_be_several_segments_of_the_address(hook: Hooks) -> None:
    await hook.sent(url="/services/{{ secrets.path }}", secrets={"path": "T000/B000/abc"})
    assert hook.receiver.requests[0].path == "/services/T000/B000/abc"


async def test_the_whole_address_can_come_from_a_column(hook: Hooks) -> None:
    what = noted(f"{hook.receiver.url}/per/row?x=1")
    assert await hook.sent(what, url="{{ row.note }}", allow_private=True) == Delivered()
    assert hook.receiver.requests[0].path == "/per/row?x=1"


@pytest.mark.parametrize("address", ["", "ftp://h/", "nothing", "http://", "http://h:99999/", "//h/x"])
async def test_an_address_from_a_column_that_is_none_is_a_dead_letter(hook: Hooks, address: str) -> None:
    result = await hook.sent(noted(address), url="{{ row.note }}")
    assert isinstance(result, Rejected)
    assert result == Rejected(Reason.TEMPLATE, "late: url: the rendered url is no whole http or https address")


async def test_one_refused_receiver_of_many_pauses_nothing(hook: Hooks) -> None:
    hook.receiver.script(Answer(status=401))
    result = await hook.sent(noted(hook.receiver.url), url="{{ row.note }}", allow_private=True)
    assert result == Rejected(Reason.UNAUTHORIZED, "401")


# Bodies.


_LEAF = st.one_of(
    st.none(), st.booleans(), st.text(), st.sampled_from(['"', "\n", "\\", "}}", "\N{LINE SEPARATOR}", "\ud800"])
)


@given(note=_LEAF)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_structural_body_is_json_whatever_the_values_are(note: Any) -> None:
    what = message().envelope
    what["row"]["note"] = note
    content = Content(
        config(body={"in text": "<{{ row.note }}>", "alone": "{{ row.note }}", "list": ["{{ value }}"]}), None
    )
    body = json.loads(content.render(what, scope(what)))
    assert body["alone"] == note
    assert body["list"] == [3]
    if isinstance(note, str):
        assert body["in text"] == f"<{note}>"


async def test_quotes_and_newlines_and_unicode_in_a_value_leave_the_body_json(hook: Hooks) -> None:
    nasty = 'say "hi"\n\\ \N{SNOWMAN} \x00 {{ not a template }}'
    await hook.sent(noted(nasty), body={"note": "{{ row.note }}", "text": "it says {{ row.note }}"})
    assert hook.receiver.requests[0].json == {"note": nasty, "text": f"it says {nasty}"}


async def test_a_text_body_is_sent_as_it_is_rendered_under_its_content_type(hook: Hooks) -> None:
    result = await hook.sent(
        body_text="late,customer={{ labels.customer }} value={{ value }}", content_type="text/plain"
    )
    assert result == Delivered()
    [request] = hook.receiver.requests
    assert request.body == b"late,customer=Ann value=3"
    assert request.headers["content-type"] == "text/plain"


async def test_a_form_can_be_sent(hook: Hooks) -> None:
    form = "customer={{ row.note | urlencode }}&late={{ value }}"
    await hook.sent(noted("A & B"), body_text=form, content_type="application/x-www-form-urlencoded")
    assert parse_qsl(hook.receiver.requests[0].body.decode()) == [("customer", "A & B"), ("late", "3")]


async def test_a_text_that_a_quote_in_a_value_makes_no_json_is_a_dead_letter_and_never_sent(hook: Hooks) -> None:
    channel = hook.build(body_text='{"note": "{{ row.note }}"}')
    assert await sent(channel, noted("fine")) == Delivered()
    result = await sent(channel, noted('a "quote"'))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert result.detail.startswith("late: body_text: the rendered text is no JSON (line 1, column 14")
    assert len(hook.receiver.requests) == 1


async def test_the_filter_json_puts_any_value_into_a_text_of_json(hook: Hooks) -> None:
    what = noted('a "quote"\nand more')
    await hook.sent(
        what, body_text='{"note": {{ row.note | json }}, "n": {{ value }}}', content_type="application/vnd.x+json"
    )
    assert hook.receiver.requests[0].json == {"note": 'a "quote"\nand more', "n": 3}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{'a': 1}", "", "[1,]", "[" * 100_000])
async def test_what_only_looks_like_json_is_not_sent(hook: Hooks, text: str) -> None:
    result = await hook.sent(body_text=text + "{{ '' }}")
    assert isinstance(result, Rejected)
    assert "is no JSON" in result.detail
    assert not hook.receiver.requests


async def test_half_a_surrogate_pair_is_no_text_to_send(hook: Hooks) -> None:
    result = await hook.sent(noted("\ud800"), body_text="{{ row.note }}", content_type="text/plain")
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE


async def test_an_alert_can_have_another_body_than_its_channel(hook: Hooks) -> None:
    channel = hook.build(body={"a": 1}, route={"body": None, "body_text": "{{ id }}", "content_type": "text/plain"})
    what = message()
    await sent(channel, what)
    assert hook.receiver.requests[0].body == what.id.encode()


async def test_merged_notifications_can_be_listed(hook: Hooks) -> None:
    one, two = message(key="1"), message(Kind.RESOLVED, key="2", at=1_795_242_549_000)
    together = message(key="1")
    together.envelope.update(merged([one.envelope, two.envelope]))
    template = {
        "orders": "{{ merged | map(attribute='row.order_id') | list }}",
        "text": "{% for one in merged %}{{ one.status }} {% endfor %}",
        "count": "{{ merged | length }}",
    }
    channel = hook.build(body=template)
    await sent(channel, together)
    await sent(channel, one)
    first, second = (request.json for request in hook.receiver.requests)
    assert first == {"orders": [1, 2], "text": "fired resolved ", "count": 2}
    assert second == {"orders": [1], "text": "fired ", "count": 1}


async def test_a_body_over_the_own_limit_is_not_sent(hook: Hooks) -> None:
    channel = hook.build(body={"note": "{{ row.note }}"}, max_body=100)
    assert await sent(channel, noted("x" * 80)) == Delivered()
    expected = "the body has 211 bytes, more than max_body allows (100)"
    assert await sent(channel, noted("x" * 200)) == Rejected(Reason.TOO_LARGE, expected)
    assert len(hook.receiver.requests) == 1


async def test_a_body_over_the_receivers_limit_is_a_dead_letter(hook: Hooks) -> None:
    hook.receiver.script(Answer(status=413))
    assert await hook.sent() == Rejected(Reason.TOO_LARGE, "413")


# Answers.


@pytest.mark.parametrize(
    ("success", "status", "delivered"),
    [
        (["2xx"], 299, True),
        ([200, 202], 202, True),
        ([200, 202], 204, False),
        (["2xx", 409], 409, True),
        (["2xx", "3xx"], 303, True),
        ([404], 404, True),
        ([404], 200, False),
    ],
)
async def test_what_counts_as_success_can_be_said(hook: Hooks, success: Any, status: int, delivered: bool) -> None:
    hook.receiver.script(Answer(status=status))
    result = await hook.sent(success=success)
    if delivered:
        assert result == Delivered()
    else:
        assert result == Rejected(Reason.REJECTED, f"not among the statuses in success: {status}")


# Secrets.


async def test_secrets_can_stand_in_url_query_headers_and_body(hook: Hooks, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    await hook.sent(
        secrets={"key": "k-1", "token_file": str(file)},
        url="/{{ secrets.key }}/x",
        query={"token": "{{ secrets.token }}"},
        headers={"Authorization": "Bearer {{ secrets.token }}", "X-Both": "{{ secrets.key }} {{ alert }}"},
        body={"routing_key": "{{ secrets.key }}"},
    )
    [request] = hook.receiver.requests
    assert request.path == "/k-1/x?token=from-a-file"
    assert (request.headers["authorization"], request.headers["x-both"]) == ("Bearer from-a-file", "k-1 late")
    assert request.json == {"routing_key": "k-1"}


SECRETS = {"path": "HUSH-path/0001", "token": 'HUSH"token\\0001', "key": "HUSH-key-0001"}


@pytest.mark.parametrize("status", [302, 400, 401, 409, 500])
async def test_a_receiver_that_repeats_the_request_repeats_no_secret(hook: Hooks, status: int) -> None:
    """With values of rows between them, so that nothing is constant."""
    hook.receiver.otherwise = lambda request: Answer(
        status=status,
        body=f"{request.path} {unquote(request.path)} {request.headers} {request.body.decode()}".encode(),
        headers={"location": request.path},
    )
    channel = hook.build(
        secrets=SECRETS,
        url="/{{ secrets.path }}/{{ alert }}?v={{ value }}",
        query={"k": "{{ secrets.key }}{{ value }}"},
        headers={"Authorization": "Bearer {{ secrets.token }}", "X-Mixed": "HUSH-literal {{ alert }}"},
        body={"key": "{{ secrets.token }}"},
        signing_secret="whsec_" + "SFVTSA" * 8,
    )
    result = await sent(channel)
    assert "HUSH" in hook.receiver.requests[0].path
    assert "HUSH" in hook.receiver.requests[0].body.decode()
    assert not isinstance(result, Delivered)
    assert "HUSH" not in repr(result)
    assert "SFVTSA" not in repr(result)
    assert "HUSH" not in repr(channel)


async def test_a_template_that_fails_over_a_secret_does_not_show_it(hook: Hooks) -> None:
    for leaf in (
        "{{ row[secrets.key] }}",
        "{{ secrets.key.x }}",
        "{{ secrets.key | int + secrets.key }}",
        "{{ secrets.nonesuch }}",
    ):
        result = await hook.sent(secrets=SECRETS, body={"a": leaf})
        assert isinstance(result, Rejected)
        assert result.reason is Reason.TEMPLATE
        assert "HUSH" not in result.detail


# What is refused when it is read.


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"url": "http://h/{% if value %}x{% endif %}"}, "of templates only {{ }} can stand in an address"),
        ({"url": "http://h/{{ rwo.x }}"}, "there is no variable 'rwo'"),
        ({"url": "ftp://h/{{ id }}"}, "write a whole address"),
        ({"method": "FETCH"}, "must be GET, POST, PUT, PATCH, DELETE, or a template"),
        ({"method": "{{ metod }}"}, "there is no variable 'metod'"),
        ({"headers": {"X-A": "{{ S3CR3T"}}, "X-A: line 1: "),
        ({"headers": {"X-A": "{{ lables.x }} S3CR3T"}}, "X-A: there is no variable 'lables'"),
        ({"headers": {"content-type": "text/plain"}}, "content-type is set by content_type"),
        ({"headers": {"Webhook-Id": "1"}, "signing_secret": "whsec_" + "A" * 32}, "Webhook-Id is set by the signature"),
        ({"query": {"q": "{{ vlaue }}"}}, "q: there is no variable 'vlaue'"),
        ({"body": {"a": 1}, "body_text": "x"}, "give body or body_text, not both"),
        ({"body_text": "{{ vlaue }}"}, "there is no variable 'vlaue'"),
        ({"content_type": "json"}, "match pattern"),
        ({"content_type": "text/plain\r\nX: 1"}, "match pattern"),
        ({"secrets": {"a b": "S3CR3T"}}, "the name of a secret is made of letters"),
        ({"secrets": {"a": "S3CR3T", "a_file": "/S3CR3T-less"}}, "set a or a_file, not both"),
        ({"secrets": {"a_file": "/nowhere/at/all"}}, "cannot read /nowhere/at/all: No such file"),
        ({"success": []}, "at least 1 item"),
        ({"success": ["4x"]}, "match pattern"),
        ({"success": [99]}, "greater than or equal to 200"),
        ({"signing_secret": "S3CR3T"}, "a signing secret is whsec_ followed by 24 to 64 bytes"),
        ({"signing_secret": "whsec_S3CR3T"}, "a signing secret is whsec_ followed by"),
        ({"signing_secret": " "}, "is empty"),
        ({"batch": "array", "method": "GET"}, "a request of several needs a body"),
        ({"max_redirects": 11}, "less than or equal to 10"),
        ({"max_body": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_refused_without_repeating_secrets(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**given)
    assert complaint in str(caught.value)
    assert "S3CR3T" not in str(caught.value).replace("/S3CR3T-less", "")
