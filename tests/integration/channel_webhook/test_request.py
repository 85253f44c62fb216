"""Templates of a webhook: method, address, query, headers and body, as they arrive."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.messages import message
from support.receiver import Answer
from support.sending import sent
from support.webhooks import Hooks
from tocsin.channels import webhook
from tocsin.channels.base import Delivered, Rejected
from tocsin.envelope import merged, scope
from tocsin.errors import Reason
from tocsin.model import Kind


def noted(text: str) -> Any:
    """A message whose row has a column `note`."""
    return message(extra={"note": ("text", text)})


def config(**given: Any) -> webhook.Config:
    return webhook.Config.model_validate({"type": "webhook", "url": "http://127.0.0.1/", **given})


async def dead_letter(hook: Hooks, what: Any = None, **settings: Any) -> str:
    """The reason why a request cannot be made. Nothing is sent."""
    result = await hook.sent(what, **settings)
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert not hook.receiver.requests
    return result.detail


async def test_every_part_is_a_template(hook: Hooks) -> None:
    what = message(Kind.RESOLVED)
    result = await hook.sent(
        what,
        url="/{{ alert }}/{{ row.order_id }}?a=1",
        method="{{ 'PUT' if status == 'resolved' else 'POST' }}",
        headers={"X-Customer": "{{ labels.customer }}", "X-Constant": "yes"},
        query={"id": "{{ id }}", "a": "x y&z"},
        body={"late": "{{ value }}", "text": "{{ alert }} for {{ labels.customer }}", "tags": ["x", 1]},
    )
    assert result == Delivered()
    [request] = hook.receiver.requests
    path, _, query = request.path.partition("?")
    assert (request.method, path, parse_qsl(query)) == (
        "PUT",
        "/late/17",
        [("a", "1"), ("id", what.id), ("a", "x y&z")],
    )
    assert (request.headers["x-customer"], request.headers["x-constant"]) == ("Ann", "yes")
    assert request.json == {"late": 3, "text": "late for Ann", "tags": ["x", 1]}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_get_and_delete_have_no_body(hook: Hooks, method: str) -> None:
    assert await hook.sent(method=method, query={"status": "{{ status }}"}) == Delivered()
    [request] = hook.receiver.requests
    assert (request.method, request.path, request.body) == (method, "/hook?status=fired", b"")
    assert "content-type" not in request.headers


@pytest.mark.parametrize(
    ("note", "settings", "place"),
    [
        ("x", {"method": "{{ labels.customer }}"}, "method"),
        ("x", {"body": {"text": "{{ row.custmer }}"}}, "body.text"),
        ("a\r\nX-Injected: 1", {"headers": {"X-Note": "{{ row.note }}"}}, "headers.X-Note"),
        (".", {"url": "/a/{{ row.note }}/b"}, "url"),
        ("..", {"url": "/a/{{ row.note }}/b"}, "url"),
        *((address, {"url": "{{ row.note }}"}, "url") for address in ("", "ftp://h/", "x", "http://h:99999/", "//h/x")),
        ('a "quote"', {"body_text": '{"note": "{{ row.note }}"}'}, "body_text"),
        ("\ud800", {"body_text": "{{ row.note }}", "content_type": "text/plain"}, "body_text"),
        *(
            (text, {"body_text": "{{ row.note }}"}, "body_text")
            for text in ("NaN", "[Infinity]", "[1,]", "[" * 100_000)
        ),
    ],
)
async def test_unsendable_request_is_a_dead_letter(
    hook: Hooks, note: str, settings: dict[str, Any], place: str
) -> None:
    assert (await dead_letter(hook, noted(note), **settings)).startswith(f"late: {place}: ")


# No value changes where a request goes.


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text not in (".", "..")))
def test_value_in_address_is_one_segment_or_parameter(text: str) -> None:
    url = "http://127.0.0.1/a/{{ row.note }}/z?x={{ row.note }}&y=1"
    target = config(url=url, query={"q": "{{ row.note }}"}).recipe().target(scope(noted(text).envelope))
    assert (target.url.host, target.url.fragment) == ("127.0.0.1", "")
    _, a, segment, z = str(target.url).removeprefix("http://127.0.0.1").partition("?")[0].split("/")
    assert (a, unquote(segment), z) == ("a", text, "z")
    assert parse_qsl(target.url.raw_query_string, keep_blank_values=True) == [("x", text), ("y", "1"), ("q", text)]


async def test_whole_address_comes_from_a_column(hook: Hooks) -> None:
    """A receiver that refuses credentials is one of many: the channel does not pause."""
    what = noted(f"{hook.receiver.url}/per/row?x=1")
    hook.receiver.script(Answer(), Answer(status=401))
    results = [await hook.sent(what, url="{{ row.note }}", allow_private=True) for _ in range(2)]
    assert results == [Delivered(), Rejected(Reason.UNAUTHORIZED, "401")]
    assert hook.receiver.requests[0].path == "/per/row?x=1"


# Bodies.


_LEAF = st.one_of(
    st.none(), st.booleans(), st.text(), st.sampled_from(['"', "\n", "\\", "}}", "\N{LINE SEPARATOR}", "\ud800"])
)


@given(note=_LEAF)
def test_structural_body_is_json_for_any_value(note: Any) -> None:
    what = message().envelope
    what["row"]["note"] = note
    body = {"in text": "<{{ row.note }}>", "alone": "{{ row.note }}", "list": ["{{ value }}"]}
    made = config(body=body)
    rendered = json.loads(made.content(made).render(what, scope(what)))
    assert (rendered["alone"], rendered["list"]) == (note, [3])
    if isinstance(note, str):
        assert rendered["in text"] == f"<{note}>"


@pytest.mark.parametrize(
    ("body_text", "content_type", "expected"),
    [
        ("late,customer={{ labels.customer }} value={{ value }}", "text/plain", b"late,customer=Ann value=3"),
        ("customer={{ row.note | urlencode }}", "application/x-www-form-urlencoded", b"customer=A%20%26%20%22B%22"),
        ('{"note": {{ row.note | json }}, "n": {{ value }}}', "application/x+json", b'{"note": "A & \\"B\\"", "n": 3}'),
    ],
)
async def test_text_body_is_sent_under_its_content_type(
    hook: Hooks, body_text: str, content_type: str, expected: bytes
) -> None:
    """An alert's own body replaces the channel's."""
    route = {"body": None, "body_text": body_text, "content_type": content_type}
    assert await sent(hook.build(body={"a": 1}, route=route), noted('A & "B"')) == Delivered()
    [request] = hook.receiver.requests
    assert (request.body, request.headers["content-type"]) == (expected, content_type)


async def test_merged_notifications_can_be_listed(hook: Hooks) -> None:
    one, two = message(key="1"), message(Kind.RESOLVED, key="2", at=1_795_242_549_000)
    together = message(key="1")
    together.envelope.update(merged([one.envelope, two.envelope]))
    template = {
        "orders": "{{ merged | map(attribute='row.order_id') | list }}",
        "text": "{% for one in merged %}{{ one.status }} {% endfor %}",
    }
    channel = hook.build(body=template)
    await sent(channel, together)
    await sent(channel, one)
    assert [request.json for request in hook.receiver.requests] == [
        {"orders": [1, 2], "text": "fired resolved "},
        {"orders": [1], "text": "fired "},
    ]


async def test_body_over_max_body_is_not_sent(hook: Hooks) -> None:
    channel = hook.build(body={"note": "{{ row.note }}"}, max_body=100)
    assert await sent(channel, noted("x" * 80)) == Delivered()
    expected = "the body has 211 bytes, more than max_body allows (100)"
    assert await sent(channel, noted("x" * 200)) == Rejected(Reason.TOO_LARGE, expected)
    assert len(hook.receiver.requests) == 1


# Secrets.


async def test_secrets_are_usable_in_every_part(hook: Hooks, tmp_path: Path) -> None:
    """In the url also as several segments."""
    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    await hook.sent(
        secrets={"key": "k/1", "token_file": str(file)},
        url="/{{ secrets.key }}/x",
        query={"token": "{{ secrets.token }}"},
        headers={"Authorization": "Bearer {{ secrets.token }}", "X-Both": "{{ secrets.key }} {{ alert }}"},
        body={"routing_key": "{{ secrets.key }}"},
    )
    [request] = hook.receiver.requests
    assert request.path == "/k/1/x?token=from-a-file"
    assert (request.headers["authorization"], request.headers["x-both"]) == ("Bearer from-a-file", "k/1 late")
    assert request.json == {"routing_key": "k/1"}


SECRETS = {"path": "HUSH-path/0001", "token": 'HUSH"token\\0001', "key": "HUSH-key-0001"}


@pytest.mark.parametrize("status", [302, 400, 401, 500])
async def test_echoed_request_repeats_no_secret(hook: Hooks, status: int) -> None:
    """With values of rows between them, so that nothing is constant; in headers these are secrets too."""
    hook.receiver.otherwise = lambda request: Answer(
        status=status,
        body=f"{request.path} {unquote(request.path)} {request.headers} {request.body.decode()}".encode(),
        headers={"location": request.path},
    )
    channel = hook.build(
        secrets=SECRETS,
        url="/{{ secrets.path }}/{{ alert }}?v={{ value }}",
        query={"k": "{{ secrets.key }}{{ value }}"},
        headers={"Authorization": "Bearer {{ secrets.token }}", "X-Mixed": "HUSH-literal {{ row.note }}"},
        body={"key": "{{ secrets.token }}"},
        signing_secret="whsec_" + "SFVTSA" * 8,
    )
    result = await sent(channel, noted("HUSH-of-the-row"))
    assert "HUSH" in urlsplit(hook.receiver.requests[0].path).path
    assert "HUSH" in hook.receiver.requests[0].body.decode()
    assert not isinstance(result, Delivered)
    for shown in (result, channel):
        assert "HUSH" not in repr(shown)
        assert "SFVTSA" not in repr(shown)


@pytest.mark.parametrize("leaf", ["row[secrets.key]", "secrets.key.x", "secrets.key | int + secrets.key", "secrets.no"])
async def test_failed_template_shows_no_secret(hook: Hooks, leaf: str) -> None:
    assert "HUSH" not in await dead_letter(hook, secrets=SECRETS, body={"a": f"{{{{ {leaf} }}}}"})
