"""Previews of requests that differ from a plain one: of several, of ends, signed, and of what is never sent."""

import importlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from support.messages import message
from support.sending import Build, closing
from tocsin.channels.base import Channel, Message, Rejected
from tocsin.envelope import merged
from tocsin.errors import Reason
from tocsin.model import Kind

NOVU = {"api_key": "k" * 20, "workflow": "late", "recipients": ["ann"]}
KAFKA = {"bootstrap_servers": ["127.0.0.1:1"], "topic": "late"}
HOOK = {"url": "https://example.com/hook"}


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    def channel(kind: str, **settings: Any) -> Channel:
        module = importlib.import_module(f"tocsin.channels.{kind}")
        config = module.Config.model_validate({"type": kind, **settings})
        return cast("Channel", module.build("c", config, {"late": config}))

    async with closing(channel) as made:
        yield made


def digest(*keys: str) -> Message:
    """Several rows in one message."""
    parts = [message(key=key) for key in keys]
    return Message(id=parts[0].id, alert="late", kind=Kind.FIRED, envelope=merged([one.envelope for one in parts]))


async def test_resolve_at_novu_is_nothing_a_cancel_or_a_trigger(build: Build) -> None:
    resolved = message(Kind.RESOLVED, previous_ids=("a", "b"))
    assert build("novu", **NOVU).preview(resolved) == {"nothing": "nothing is sent on resolve"}
    cancelling = build("novu", **NOVU, on_resolve="cancel_and_delete")
    assert cancelling.preview(resolved) == {"cancel": ["a", "b"], "delete_in_app": True}
    triggering = build("novu", **NOVU, on_resolve="trigger", resolved_workflow="over", topics=["team"])
    preview = triggering.preview(resolved)
    assert preview["workflow"] == "over"
    assert preview["to"] == ["ann", {"type": "Topic", "topicKey": "team"}]


async def test_state_in_kafka_is_a_record_for_each_row(build: Build) -> None:
    state = build("kafka", **KAFKA, state=True)
    assert state.preview(message(Kind.EVENT)) == {"nothing": "an event has no state; nothing is written"}
    assert state.preview(message(Kind.RESOLVED))["value"] is None
    records = state.preview(digest("1", "2"))["records"]
    assert [one["value"]["row"]["order_id"] for one in records] == [1, 2]
    assert build("kafka", **KAFKA).preview(digest("1", "2"))["value"]["merged"]


@pytest.mark.parametrize("batch", ["array", "ndjson"])
async def test_batch_of_a_webhook_is_shown_as_its_only_one(build: Build, batch: str) -> None:
    what = message()
    shown = build("webhook", **HOOK, batch=batch).preview(what)["body"]
    assert shown == ([what.envelope] if batch == "array" else what.envelope)


async def test_signature_is_made_when_it_is_sent(build: Build) -> None:
    what = message()
    signed = build("webhook", **HOOK, signing_secret="whsec_" + "QUJDRA" * 6).preview(what)["headers"]
    assert signed["webhook-id"] == what.id
    assert signed["webhook-timestamp"] == signed["webhook-signature"] == "<made when it is sent>"


async def test_request_without_a_body_shows_none(build: Build) -> None:
    shown = build("webhook", **HOOK, method="GET", query={"id": "{{ id }}"}).preview(message())
    assert shown == {
        "method": "GET",
        "url": "https://example.com/<secret>",
        "headers": {"Idempotency-Key": message().id},
    }


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("webhook", {**HOOK, "body_text": "{{ row.nosuch }}"}, Reason.TEMPLATE),
        ("webhook", {**HOOK, "max_body": 10}, Reason.TOO_LARGE),
        ("novu", {**NOVU, "recipients": [{"column": "nosuch"}]}, Reason.NO_RECIPIENTS),
        ("email", {"host": "h", "from": "a@b.c", "to": [{"column": "nosuch"}]}, Reason.NO_RECIPIENTS),
        ("kafka", {**KAFKA, "topic": "{{ row.customer }} !"}, Reason.TEMPLATE),
        ("apprise", {"urls": ["json://{{ row.nosuch }}"]}, Reason.TEMPLATE),
    ],
)
async def test_what_is_never_sent_says_why(build: Build, kind: str, settings: dict[str, Any], reason: Reason) -> None:
    found = build(kind, **settings).preview(message())
    assert isinstance(found, Rejected)
    assert found.reason is reason
