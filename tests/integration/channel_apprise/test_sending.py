"""The apprise channel: what it sends to whom, and the result of each URL. Real services of the library, pointed at a
receiver on this machine."""

import asyncio
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
import structlog.testing

from support.apprise import SECRET, SMS, TELEGRAM, aimed, at, paths
from support.messages import message
from support.receiver import Answer, Receiver
from support.sending import Build, sent
from support.waiting import until
from tocsin.channels.base import Delivered, Rejected, Retry
from tocsin.envelope import merged
from tocsin.errors import Reason
from tocsin.model import Kind

# What is sent.


async def test_service_gets_title_and_severity_of_each_kind(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver))
    for each in Kind:
        assert await sent(channel, message(each)) == Delivered()
    assert {(request.json["title"].partition(":")[0], request.json["type"]) for request in receiver.requests} == {
        ("Fired", "failure"),
        ("Changed", "warning"),
        ("Still firing", "failure"),
        ("Resolved", "success"),
        ("Event", "info"),
    }
    assert receiver.requests[0].json["message"].startswith("customer Ann, value 3\n")


async def test_configured_title_and_body_are_templates(build: Build, receiver: Receiver) -> None:
    url = at(receiver, schema="form")
    await sent(build(url, title="{{ alert }}\n!", body="{{ row.order_id }} for {{ labels.customer }}"))
    form = parse_qs(receiver.requests[0].body.decode())
    assert (form["title"], form["message"]) == (["late !"], ["17 for Ann"])


async def test_html_body_is_escaped_or_converted_to_text(build: Build, receiver: Receiver) -> None:
    both = (at(receiver, "?format=text"), at(receiver, "?format=html"))
    await sent(build(*both, format="html", body="<b>{{ row.note }}</b>"), message(extra={"note": ("text", "a < b")}))
    assert {request.json["message"] for request in receiver.requests} == {"a < b", "<b>a &lt; b</b>"}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("html", "<b>5 &lt;u&gt;6&lt;/u&gt; &amp; *7*</b>\r\n<i>8</i>"),
        ("markdown", "*5 \\<u\\>6\\</u\\> & \\*7\\**\n\\<i\\>8\\</i\\>"),
        ("text", "<b>5 &lt;u&gt;6&lt;/u&gt; &amp; *7*</b>\r\n&lt;i&gt;8&lt;/i&gt;"),
    ],
)
async def test_title_merged_into_the_body_is_escaped(build: Build, receiver: Receiver, form: str, text: str) -> None:
    receiver.script(Answer(body=b'{"ok": true}'), Answer(status=201, body=b"{}"))
    title = "5 <u>6</u> & *7*"
    telegram = build(f"{TELEGRAM}?mdv=v2", title=title, body="<i>8</i>", format=form)
    assert await sent(aimed(telegram, receiver)) == Delivered()
    assert receiver.requests[0].json["text"] == text
    await sent(aimed(build(SMS, title=title, body="8", format=form), receiver))
    assert parse_qs(receiver.requests[1].body.decode())["Body"] == ["5 <u>6</u> & *7*\r\n8"]


async def test_title_takes_the_place_of_an_empty_body(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "?format=html"), title="a<b", body="{{ '' }}", format="html"))
    assert receiver.requests[0].json["message"] == "a&lt;b"


async def test_digest_lists_its_notifications(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=str(number)).envelope for number in range(12)]
    await sent(build(at(receiver)), replace(message(), envelope=merged(envelopes)))
    [request] = receiver.requests
    assert request.json["title"] == "late: 12 notifications (12 fired)"
    assert "Fired: Order 9 of Ann is late\nand 2 more" in request.json["message"]


# Recipients.


async def test_urls_of_alert_override_those_of_channel(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "channel"), own={"urls": [at(receiver, "alert")]}))
    assert paths(receiver) == ["/alert"]


async def test_row_value_stays_one_segment_of_url(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "sms/{{ row.phone }}")), message(extra={"phone": ("text", "+49 1/../2?a=b&c#d")}))
    assert paths(receiver) == ["/sms/+49%201%2F..%2F2%3Fa=b&c%23d"]


async def test_line_break_in_a_header_is_a_blank(build: Build, receiver: Receiver) -> None:
    """As in a title or the subject of a mail; the library would never send the message."""
    channel = build(at(receiver, "?+X-Note={{ row.note }}"))
    assert await sent(channel, message(extra={"note": ("text", "a\r\nb\nX-Own: c\n")})) == Delivered()
    assert receiver.requests[0].headers["x-note"] == "a b X-Own: c"


async def test_row_without_recipient_becomes_a_dead_letter(build: Build, receiver: Receiver) -> None:
    result = await sent(build(at(receiver, "{{ row.phone }}")), message(extra={"phone": ("text", None)}))
    assert result == Rejected(Reason.NO_RECIPIENTS, "late: urls[0]: an expression prints nothing")
    assert not receiver.requests


async def test_each_url_of_a_row_is_sent_once(build: Build, receiver: Receiver) -> None:
    """One without a value is left out."""
    channel = build(at(receiver, "{{ row.who }}"), at(receiver, "{{ row.phone }}"), at(receiver, "room"))
    assert await sent(channel, message(extra={"who": ("text", "room"), "phone": ("text", None)})) == Delivered()
    assert paths(receiver) == ["/room"]


async def test_digest_goes_to_recipients_of_all_its_notifications(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=who, extra={"who": ("text", who)}).envelope for who in ("ann", "bob", "ann")]
    await sent(build(at(receiver, "{{ row.who }}")), replace(message(), envelope=merged(envelopes)))
    assert sorted(paths(receiver)) == ["/ann", "/bob"]


async def test_missing_column_of_the_row_is_named(build: Build, receiver: Receiver) -> None:
    result = await sent(build(at(receiver, "{{ row.phne }}")))
    assert isinstance(result, Rejected)
    assert (result.reason, "'phne'" in result.detail) == (Reason.TEMPLATE, True)


# Results.


async def test_only_the_failed_service_is_retried(build: Build, receiver: Receiver) -> None:
    failing = True
    receiver.otherwise = lambda request: Answer(status=503 if failing and request.path == "/b" else 200)
    channel = build(at(receiver, "a"), at(receiver, "b"), at(receiver, "c"))
    for _ in range(2):
        result = await sent(channel)
        assert isinstance(result, Retry)
        assert result.reason is Reason.SERVER_ERROR
        assert result.detail.startswith("2 of 3 have it; JSON: ")
        assert "503" in result.detail
    failing = False
    assert await sent(channel) == Delivered()
    assert sorted(paths(receiver)) == ["/a", "/b", "/b", "/b", "/c"]
    assert await sent(channel, message(key="18")) == Delivered()
    assert len(receiver.requests) == 8


async def test_silent_services_delay_no_other(build: Build, receiver: Receiver) -> None:
    """In the same channel and in another one. The library's own pool has at most 32 threads for the whole process."""
    silent = 33
    receiver.otherwise = lambda request: Answer(hang=request.path.startswith("/slow"))
    slow = build(*(at(receiver, f"slow{number}") for number in range(silent)), at(receiver, "fast"), timeout="3s")
    hanging = asyncio.create_task(sent(slow))
    await until(lambda: len(receiver.requests) == silent + 1, "all are under way")
    assert await sent(build(at(receiver, "other"), timeout="3s")) == Delivered()
    assert not hanging.done()
    assert await hanging == Retry(Reason.TIMEOUT, f"1 of {silent + 1} have it; no answer within 3 s")
    assert paths(receiver).count("/fast") == paths(receiver).count("/other") == 1


async def test_messages_to_one_url_are_sent_sequentially(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver), concurrency=8)
    results = await channel.send([message(key=str(number)) for number in range(20)])
    assert results == [Delivered()] * 20
    titles = [request.json["title"] for request in receiver.requests]
    assert titles == [f"Fired: Order {number} of Ann is late" for number in range(20)]


async def test_refused_url_of_a_row_is_noted_and_logged(
    build: Build, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the library ends the process."""

    def ends(*_: Any, **__: Any) -> None:
        raise SystemExit(f"no {SECRET}")

    channel = build("json://{{ row.who }}/" + SECRET, at(receiver), concurrency=1)
    monkeypatch.setattr("apprise.Apprise.instantiate", ends)
    refused = "Apprise cannot use this json URL: no <secret>"
    with structlog.testing.capture_logs() as logs:
        for who in ("ann", "bob"):
            result = await sent(channel, message(key=who, extra={"who": ("text", who)}))
            assert result == Delivered(f"refused: {refused}")
    assert [(line["event"], line["answer"]) for line in logs] == [("recipient refused", refused)] * 2
    assert len(receiver.requests) == 2
