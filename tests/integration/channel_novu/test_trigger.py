"""One trigger against the inbox, which answers as a real Novu: content, recipients, and answers."""

import json
from typing import Any

import pytest

from support.messages import message
from support.novu import (
    API_KEY,
    BULK,
    INACTIVE_WORKFLOW,
    REQUIRED_WORKFLOW,
    TRIGGER,
    WORKFLOW,
    FakeNovu,
    bodies,
    fake_novu,
    several,
)
from support.receiver import Answer, Receiver, of_json
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin_demo.inbox.inbox import Settings

REFUSED = {"acknowledged": True, "status": "error", "error": ["why"]}


async def test_id_is_transaction_id_and_idempotency_key(server: FakeNovu, build: Build) -> None:
    """An update is a trigger of its own. The payload is the envelope, also for an alert that is no longer routed."""
    channel = build(server.url)
    first, second, third = message(), message(Kind.UPDATED, at=1_795_242_549_000), message(alert="removed")
    assert [await sent(channel, each) for each in (first, second, third)] == [Delivered()] * 3
    await server.until_delivered(3)
    assert [request.idempotency_key for request in server.requests(TRIGGER)] == [first.id, second.id, third.id]
    assert bodies(server) == [
        {"name": WORKFLOW, "to": ["sub-1"], "payload": each.envelope, "transactionId": each.id}
        for each in (first, second, third)
    ]


async def test_options_are_rendered_from_the_envelope(server: FakeNovu, build: Build) -> None:
    channel = build(
        server.url,
        payload={"msg": "{{ annotations.summary }}", "late_by": "{{ value }}", "row": "{{ row }}", "none": None},
        actor="{{ labels.customer }}",
        tenant="{{ '' }}",
        topics=["ops"],
        overrides={"providers": {"fcm": {"tag": "{{ fingerprint }}"}}},
    )
    what = message()
    assert await sent(channel, what) == Delivered()
    row = {"order_id": 17, "customer": "Ann", "late_by": 3.0}
    assert bodies(server) == [
        {
            "name": WORKFLOW,
            "to": ["sub-1", {"type": "Topic", "topicKey": "ops"}],
            "payload": {"msg": "Order 17 of Ann is late", "late_by": 3, "row": row, "none": None},
            "transactionId": what.id,
            "actor": "Ann",
            "overrides": {"providers": {"fcm": {"tag": what.envelope["fingerprint"]}}},
        }
    ]


async def test_payload_of_columns_has_those_of_the_row(server: FakeNovu, build: Build) -> None:
    assert await sent(build(server.url, payload=["order_id", "customer", "gone"])) == Delivered()
    assert bodies(server)[0]["payload"] == {"order_id": 17, "customer": "Ann"}


async def test_numbers_that_json_lacks_are_sent_as_text(server: FakeNovu, build: Build) -> None:
    """The SDK makes null of NaN."""
    columns = {"ratio": ("numeric", "NaN"), "total": ("numeric", "1.10")}
    for messages in ([message(extra=columns)], several(2, extra=columns)):
        await build(server.url).send(messages)
    rows = [each["payload"]["row"] for each in (bodies(server, TRIGGER)[0], *bodies(server, BULK)[0]["events"])]
    assert [(row["ratio"], row["total"]) for row in rows] == [
        ("NaN", message(extra=columns).envelope["row"]["total"])
    ] * 3


async def test_accepted_overrides_reach_novu(server: FakeNovu, build: Build) -> None:
    """Every key that a configuration may have."""
    overrides = {
        "steps": {"mail": {"providers": {"sendgrid": {"templateId": "t"}}, "layoutId": "a"}},
        "channels": {"email": {"layoutId": "b"}},
        "providers": {"fcm": {"tag": "c"}},
        "severity": "high",
        "email": {"from": "d"},
        "push": {"e": 1},
        "sms": {"f": [2]},
        "chat": {"g": {"h": 3}},
        "layoutIdentifier": "i",
    }
    await sent(build(server.url, overrides=overrides))
    assert bodies(server)[0]["overrides"] == overrides


# Recipients.


@pytest.mark.parametrize(
    ("type_name", "text", "expected"),
    [
        ("text", " sub-1, sub-2,,sub-1 ,sub-3", ["sub-3", "sub-1", "sub-2"]),
        ("texts", '{sub-2,"a,b",NULL}', ["sub-3", "sub-2", "a,b"]),
        ("jsonb", '["sub-2", 7]', ["sub-3", "sub-2", "7"]),
        ("int", "42", ["sub-3", "42"]),
    ],
)
async def test_recipients_come_from_a_column(
    server: FakeNovu, build: Build, type_name: str, text: str, expected: list[str]
) -> None:
    """In addition to those of the settings, each once."""
    channel = build(server.url, recipients=["sub-3", {"column": "who"}])
    assert await sent(channel, message(extra={"who": (type_name, text)})) == Delivered()
    assert bodies(server)[0]["to"] == expected


@pytest.mark.parametrize("who", [("text", " , "), ("text", None), ("jsonb", '[{"id": 1}]'), ("jsonb", "true")])
async def test_message_without_recipients_is_rejected_unsent(
    server: FakeNovu, build: Build, who: tuple[str, str | None]
) -> None:
    """Novu would accept it and deliver nothing."""
    channel = build(server.url, recipients=[{"column": "who"}])
    for what in (message(extra={"who": who}), message()):
        result = await sent(channel, what)
        assert isinstance(result, Rejected)
        assert result.reason is Reason.NO_RECIPIENTS
    assert not server.requests()


async def test_too_many_recipients_or_bytes_are_rejected_unsent(server: FakeNovu, build: Build) -> None:
    who = ("text", ",".join(f"s{n}" for n in range(101)))
    result = await sent(build(server.url, recipients=[{"column": "who"}]), message(extra={"who": who}))
    assert result == Rejected(Reason.TOO_LARGE, "101 recipients, and Novu takes 100 in one trigger; use a topic")
    what = message(extra={"note": ("text", "é" * 3000)})
    size = len(json.dumps(what.envelope, ensure_ascii=False, separators=(",", ":")).encode())
    result = await sent(build(server.url, max_payload=size - 1), what)
    assert result == Rejected(Reason.TOO_LARGE, f"the payload has {size} bytes, max_payload is {size - 1}")
    assert not server.requests()
    assert await sent(build(server.url, max_payload=size), what) == Delivered()


# Answers.


async def test_status_other_than_processed_is_a_rejection(server: FakeNovu, build: Build) -> None:
    result = await sent(build(server.url, workflow=INACTIVE_WORKFLOW))
    assert result == Rejected(Reason.NOT_PROCESSED, "trigger_not_active; activate the workflow in Novu")
    server.fault("event_status", event_status="not_known_to_the_sdk")
    assert await sent(build(server.url)) == Rejected(Reason.NOT_PROCESSED, "not_known_to_the_sdk")


@pytest.mark.parametrize("release", ["2.0.0", "3.15.0"])
async def test_unknown_workflow_and_missing_variable_are_final(build: Build, release: Any) -> None:
    async with fake_novu(Settings(api_key=API_KEY, release=release)) as server:
        assert await sent(build(server.url, workflow="nope")) == Rejected(Reason.REJECTED, "422 workflow_not_found")
        result = await sent(build(server.url, workflow=REQUIRED_WORKFLOW))
    assert isinstance(result, Rejected)
    assert "reqd" in result.detail


@pytest.mark.parametrize("body", [b"null", b'{"data": []}', b'{"data": {"status": 7}}', b"", b"\xff"])
async def test_unreadable_201_is_a_delivery(build: Build, body: bytes) -> None:
    """Of one event, and of each event of a bulk."""
    headers = {"content-type": "application/json"}
    async with Receiver(lambda _: Answer(status=201, body=body, headers=headers)) as receiver:
        channel = build(receiver.url)
        assert await channel.send([message()]) == [Delivered()]
        assert await channel.send(several(2)) == [Delivered()] * 2


@pytest.mark.parametrize(("status", "content_type"), [(202, "application/json"), (201, None)])
async def test_unusual_acceptance_is_read(build: Build, status: int, content_type: str | None) -> None:
    """The SDK raises for each of these."""
    headers = {"content-type": content_type} if content_type else {}

    def answer(entry: dict[str, Any]) -> Answer:
        return Answer(status=status, body=json.dumps({"data": entry}).encode(), headers=headers)

    async with Receiver(lambda _: answer({"acknowledged": True, "status": "processed"})) as receiver:
        channel = build(receiver.url)
        assert await sent(channel) == Delivered()
        receiver.otherwise = lambda _: answer(REFUSED)
        assert await sent(channel) == Rejected(Reason.NOT_PROCESSED, "error: why")


async def test_validation_errors_name_the_fault(build: Build) -> None:
    """The message of Novu's answer says nothing; the faults are in `errors`."""
    errors = {"general": {"messages": ["to should not be null or undefined"], "value": "No Value Recorded"}}
    body = {"statusCode": 422, "path": TRIGGER, "message": "Validation Error", "ctx": {}, "errors": errors}
    async with Receiver(lambda _: of_json(422, body)) as receiver:
        result = await sent(build(receiver.url))
    assert isinstance(result, Rejected)
    assert result.detail.startswith("422 Validation Error; ")
    assert "to should not be null or undefined" in result.detail
