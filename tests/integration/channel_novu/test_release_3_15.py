"""The channel against the answers of Novu 3.15.0, where they differ from those of 2.0.0."""

from collections.abc import AsyncIterator

import pytest

from support.messages import message
from support.novu import API_KEY, REQUIRED_WORKFLOW, FakeNovu, fake_novu
from support.novu_channels import BULK, TRIGGER, several
from support.receiver import Receiver, of_json
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected
from tocsin.errors import Reason
from tocsin_demo.inbox.inbox import Settings


@pytest.fixture
async def newer() -> AsyncIterator[FakeNovu]:
    async with fake_novu(Settings(api_key=API_KEY, release="3.15.0")) as running:
        yield running


async def test_a_trigger_is_delivered(newer: FakeNovu, build: Build) -> None:
    """Alone and in bulk; entries have a link more."""
    channel = build(newer.url)
    assert await sent(channel) == Delivered()
    assert await channel.send(several(2)) == [Delivered()] * 2
    await newer.until_delivered(3)


async def test_a_stored_error_that_comes_back_as_503_is_not_final(newer: FakeNovu, build: Build) -> None:
    """The workflow is made after the first attempt; under the old key Novu answers 503 for a day."""
    channel = build(newer.url, workflow="later")
    assert await sent(channel) == Rejected(Reason.REJECTED, "422 workflow_not_found")
    newer.add_workflow("later")
    assert await sent(channel) == Delivered()
    statuses = [(each.status, each.replayed) for each in newer.requests(TRIGGER)]
    assert statuses == [(422, False), (503, True), (201, False)]


async def test_a_missing_variable_is_final_and_named(newer: FakeNovu, build: Build) -> None:
    """Another text, and in a bulk an entry of its own."""
    complaint = "Payload validation failed: root.reqd: must have required property 'reqd'"
    channel = build(newer.url, workflow=REQUIRED_WORKFLOW)
    assert await sent(channel) == Rejected(Reason.REJECTED, f"400 {complaint}")
    results = await channel.send([message(key="18"), message(key="19")])
    assert [isinstance(each, Rejected) and complaint in each.detail for each in results] == [True] * 2
    assert [each.path for each in newer.requests(BULK)] == [BULK]


async def test_validation_errors_show_what_is_wrong(build: Build) -> None:
    """The message says nothing; the faults are in `errors`."""
    errors = {"general": {"messages": ["to should not be null or undefined"], "value": "No Value Recorded"}}
    body = {"statusCode": 422, "path": TRIGGER, "message": "Validation Error", "ctx": {}, "errors": errors}
    async with Receiver(lambda _: of_json(422, body)) as receiver:
        result = await sent(build(receiver.url))
    assert isinstance(result, Rejected)
    assert result.detail.startswith("422 Validation Error; ")
    assert "to should not be null or undefined" in result.detail
