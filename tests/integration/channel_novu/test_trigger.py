"""One trigger of the Novu channel against the inbox, which answers as a real Novu did: what is in it, and for whom."""

import json

import pytest

from support.messages import message
from support.novu import INACTIVE_WORKFLOW, REQUIRED_WORKFLOW, WORKFLOW, FakeNovu
from support.novu_channels import TRIGGER, bodies, several
from support.receiver import Answer, Receiver
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected
from tocsin.errors import Reason
from tocsin.model import Kind


async def test_the_id_is_transaction_id_and_idempotency_key_and_the_payload_the_envelope(
    server: FakeNovu, build: Build
) -> None:
    what = message()
    assert await sent(build(server.url), what) == Delivered()
    await server.until_delivered(1)
    [request] = server.requests(TRIGGER)
    assert request.idempotency_key == what.id
    [body] = bodies(server)
    assert body == {"name": WORKFLOW, "to": ["sub-1"], "payload": what.envelope, "transactionId": what.id}


async def test_a_payload_of_columns_holds_those_of_them_that_the_row_has(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, payload=["order_id", "customer", "gone"])
    assert await sent(channel) == Delivered()
    assert bodies(server)[0]["payload"] == {"order_id": 17, "customer": "Ann"}


async def test_a_payload_template_actor_and_overrides_are_rendered(server: FakeNovu, build: Build) -> None:
    channel = build(
        server.url,
        payload={"msg": "{{ annotations.summary }}", "late_by": "{{ value }}", "row": "{{ row }}", "none": None},
        actor="{{ labels.customer }}",
        tenant="{{ '' }}",
        overrides={"providers": {"fcm": {"tag": "{{ fingerprint }}"}}},
    )
    what = message()
    assert await sent(channel, what) == Delivered()
    [body] = bodies(server)
    row = {"order_id": 17, "customer": "Ann", "late_by": 3.0}
    assert body["payload"] == {"msg": "Order 17 of Ann is late", "late_by": 3, "row": row, "none": None}
    assert body["actor"] == "Ann"
    assert "tenant" not in body
    assert body["overrides"] == {"providers": {"fcm": {"tag": what.envelope["fingerprint"]}}}


async def test_topics_go_beside_recipients(server: FakeNovu, build: Build) -> None:
    await sent(build(server.url, topics=["ops"]))
    assert bodies(server)[0]["to"] == ["sub-1", {"type": "Topic", "topicKey": "ops"}]


async def test_an_update_is_a_trigger_of_its_own(server: FakeNovu, build: Build) -> None:
    channel = build(server.url)
    first, second = message(), message(Kind.UPDATED, at=1_795_242_549_000)
    assert [await sent(channel, first), await sent(channel, second)] == [Delivered(), Delivered()]
    await server.until_delivered(2)
    assert [each["transactionId"] for each in bodies(server)] == [first.id, second.id]


async def test_a_status_other_than_processed_is_a_rejection_with_its_name(server: FakeNovu, build: Build) -> None:
    result = await sent(build(server.url, workflow=INACTIVE_WORKFLOW))
    assert result == Rejected(Reason.NOT_PROCESSED, "trigger_not_active; activate the workflow in Novu")


async def test_a_status_that_the_sdk_does_not_know_is_a_rejection_too(server: FakeNovu, build: Build) -> None:
    server.fault("event_status", event_status="subscriber_id_missing")
    assert await sent(build(server.url)) == Rejected(Reason.NOT_PROCESSED, "subscriber_id_missing")


async def test_a_201_that_cannot_be_read_is_a_delivery(server: FakeNovu, build: Build) -> None:
    server.fault("garbage")
    assert await sent(build(server.url)) == Delivered()
    await server.until_delivered(1)


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'{"data": []}', b'{"data": {"status": 7}}', b"", b"\xff"])
async def test_so_is_one_that_says_something_else(build: Build, body: bytes) -> None:
    async with Receiver(
        lambda _: Answer(status=201, body=body, headers={"content-type": "application/json"})
    ) as receiver:
        channel = build(receiver.url)
        assert await channel.send([message()]) == [Delivered()]
        assert await channel.send(several(2)) == [Delivered()] * 2


async def test_an_unknown_workflow_is_final(server: FakeNovu, build: Build) -> None:
    assert await sent(build(server.url, workflow="nope")) == Rejected(Reason.REJECTED, "422 workflow_not_found")


async def test_a_missing_variable_is_final_and_named(server: FakeNovu, build: Build) -> None:
    result = await sent(build(server.url, workflow=REQUIRED_WORKFLOW))
    assert isinstance(result, Rejected)
    assert "reqd" in result.detail


async def test_an_alert_that_is_no_longer_routed_uses_the_settings_of_the_channel(
    server: FakeNovu, build: Build
) -> None:
    assert await sent(build(server.url), message(alert="removed")) == Delivered()


# Recipients.


@pytest.mark.parametrize(
    ("type_name", "text", "expected"),
    [
        ("text", "sub-1", ["sub-1"]),
        ("text", " sub-1, sub-2,,sub-1 ", ["sub-1", "sub-2"]),
        ("texts", '{sub-2,"a,b",NULL}', ["sub-2", "a,b"]),
        ("list", "{sub-2,NULL}", ["sub-2"]),
        ("jsonb", '["sub-2", 7]', ["sub-2", "7"]),
        ("int", "42", ["42"]),
        ("numeric", "42", ["42"]),
    ],
)
async def test_a_column_names_them(
    server: FakeNovu, build: Build, type_name: str, text: str, expected: list[str]
) -> None:
    channel = build(server.url, recipients=[{"column": "who"}])
    assert await sent(channel, message(extra={"who": (type_name, text)})) == Delivered()
    assert bodies(server)[0]["to"] == expected


async def test_named_twice_means_one_message(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, recipients=["sub-2", {"column": "who"}, "sub-1"])
    assert await sent(channel, message(extra={"who": ("text", "sub-1,sub-2")})) == Delivered()
    assert bodies(server)[0]["to"] == ["sub-2", "sub-1"]


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ({"who": ("text", "")}, "the row names nobody in who"),
        ({"who": ("text", " , ")}, "the row names nobody in who"),
        ({"who": ("text", None)}, "the row names nobody in who"),
        ({"who": ("texts", "{}")}, "the row names nobody in who"),
        ({"who": ("jsonb", "[null]")}, "the row names nobody in who"),
        ({"who": ("jsonb", '[{"id": 1}]')}, "column 'who' holds dict, which is no subscriber id"),
        ({"who": ("jsonb", "true")}, "column 'who' holds bool, which is no subscriber id"),
        ({}, "the row has no column 'who'"),
    ],
)
async def test_what_novu_would_accept_and_deliver_to_nobody_is_rejected_unsent(
    server: FakeNovu, build: Build, extra: dict[str, tuple[str, str | None]], complaint: str
) -> None:
    result = await sent(build(server.url, recipients=[{"column": "who"}]), message(extra=extra))
    assert result == Rejected(Reason.NO_RECIPIENTS, f"recipients: {complaint}")
    assert not server.requests()


async def test_more_than_a_hundred_are_rejected_unsent(server: FakeNovu, build: Build) -> None:
    ids = ",".join(f"s{n}" for n in range(101))
    result = await sent(build(server.url, recipients=[{"column": "who"}]), message(extra={"who": ("text", ids)}))
    assert result == Rejected(Reason.TOO_LARGE, "101 recipients, and Novu takes 100 in one trigger; use a topic")
    assert not server.requests()


async def test_a_payload_beyond_the_limit_is_rejected_unsent(server: FakeNovu, build: Build) -> None:
    what = message(extra={"note": ("text", "é" * 3000)})
    size = len(json.dumps(what.envelope, ensure_ascii=False, separators=(",", ":")).encode())
    assert await sent(build(server.url, max_payload=size), what) == Delivered()
    result = await sent(build(server.url, max_payload=size - 1), what)
    assert result == Rejected(Reason.TOO_LARGE, f"the payload has {size} bytes, max_payload is {size - 1}")
    assert len(server.requests()) == 1
