"""The apprise channel: what it sends to whom. Real services of the library, pointed at a receiver on this machine."""

from dataclasses import replace

import pytest

from support.apprise import at, paths
from support.messages import message
from support.receiver import Receiver
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected
from tocsin.envelope import merged
from tocsin.errors import Reason
from tocsin.model import Kind

# What is sent.


@pytest.mark.parametrize(
    ("kind", "title", "type_"),
    [
        (Kind.FIRED, "Fired: Order 17 of Ann is late", "failure"),
        (Kind.UPDATED, "Changed: Order 17 of Ann is late", "warning"),
        (Kind.REPEATED, "Still firing: Order 17 of Ann is late", "failure"),
        (Kind.RESOLVED, "Resolved: Order 17 of Ann is late", "success"),
        (Kind.EVENT, "Event: Order 17 of Ann is late", "info"),
    ],
)
async def test_service_gets_title_and_severity_of_each_kind(
    build: Build, receiver: Receiver, kind: Kind, title: str, type_: str
) -> None:
    assert await sent(build(at(receiver)), message(kind)) == Delivered()
    [request] = receiver.requests
    assert (request.json["title"], request.json["type"]) == (title, type_)
    assert request.json["message"].startswith("customer Ann, value 3\n")


async def test_configured_title_and_body_are_templates(build: Build, receiver: Receiver) -> None:
    channel = build(
        at(receiver, schema="form"), title="{{ alert }}\n!", body="{{ row.order_id }} for {{ labels.customer }}"
    )
    assert await sent(channel) == Delivered()
    body = receiver.requests[0].body.decode()
    assert "title=late+%21" in body
    assert "message=17+for+Ann" in body


async def test_html_body_is_escaped_or_converted_to_text(build: Build, receiver: Receiver) -> None:
    channel = build(
        at(receiver, "?format=text"), at(receiver, "?format=html"), format="html", body="<b>{{ row.note }}</b>"
    )
    await sent(channel, message(extra={"note": ("text", "a < b")}))
    assert {request.json["message"] for request in receiver.requests} == {"a < b", "<b>a &lt; b</b>"}


async def test_digest_lists_its_notifications(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=str(number)).envelope for number in range(12)]
    await sent(build(at(receiver)), replace(message(), envelope=merged(envelopes)))
    [request] = receiver.requests
    assert request.json["title"] == "late: 12 notifications (12 fired)"
    assert "Fired: Order 9 of Ann is late\nand 2 more" in request.json["message"]


async def test_message_without_body_is_its_title(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver), title="only this", body="{{ '' }}"))
    assert receiver.requests[0].json["message"] == "only this"


async def test_urls_of_alert_override_those_of_channel(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "channel"), own={"urls": [at(receiver, "alert")]}))
    assert paths(receiver) == ["/alert"]


# Recipients.


async def test_row_value_stays_one_segment_of_url(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver, "sms/{{ row.phone }}"))
    await sent(channel, message(extra={"phone": ("text", "+49 1/../2?a=b&c#d")}))
    [path] = paths(receiver)
    assert path == "/sms/+49%201%2F..%2F2%3Fa=b&c%23d"


@pytest.mark.parametrize("phone", [None, ""])
async def test_row_without_recipient_becomes_a_dead_letter(build: Build, receiver: Receiver, phone: str | None) -> None:
    result = await sent(build(at(receiver, "{{ row.phone }}")), message(extra={"phone": ("text", phone)}))
    assert result == Rejected(Reason.NO_RECIPIENTS, "late: urls[0]: an expression prints nothing")
    assert not receiver.requests


async def test_url_without_recipient_is_skipped_others_are_sent(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver, "{{ row.phone }}"), at(receiver, "room"))
    assert await sent(channel, message(extra={"phone": ("text", None)})) == Delivered()
    assert paths(receiver) == ["/room"]


async def test_duplicate_url_is_sent_once(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver, "{{ row.who }}"), at(receiver, "room"))
    await sent(channel, message(extra={"who": ("text", "room")}))
    assert paths(receiver) == ["/room"]


async def test_digest_goes_to_recipients_of_all_its_notifications(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=who, extra={"who": ("text", who)}).envelope for who in ("ann", "bob", "ann")]
    await sent(build(at(receiver, "{{ row.who }}")), replace(message(), envelope=merged(envelopes)))
    assert sorted(paths(receiver)) == ["/ann", "/bob"]


async def test_missing_column_of_the_row_is_named(build: Build, receiver: Receiver) -> None:
    result = await sent(build(at(receiver, "{{ row.phne }}")))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert "'phne'" in result.detail
