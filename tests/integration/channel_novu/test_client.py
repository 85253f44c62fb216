"""Where Novu's SDK behaves unexpectedly, and what the channel makes of it."""

import json
from typing import Any

import pytest
from novu_py.models import EmailChannelOverrides, StepsOverrides
from novu_py.models.triggereventrequestdto import Channels, Overrides
from pydantic import ValidationError

from support.messages import message
from support.novu import API_KEY, WORKFLOW, FakeNovu
from support.novu_channels import BULK, TRIGGER, bodies, several
from support.receiver import Answer, Received, Receiver, of_json
from support.sending import Build, sent
from tocsin.channels import novu
from tocsin.channels.base import Delivered, Paused, Rejected, Retry
from tocsin.channels.novu.settings import KNOWN_OVERRIDES
from tocsin.errors import Reason
from tocsin.model import Kind

REFUSED = {"acknowledged": True, "status": "error", "error": ["why"]}
NOT_PROCESSED = Rejected(Reason.NOT_PROCESSED, "error: why")


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_a_failed_attempt_is_one_request(server: FakeNovu, build: Build, status: int) -> None:
    """The SDK would repeat it for an hour, each time under another idempotency key."""
    server.fault("status", status=status)
    assert isinstance(await sent(build(server.url)), Retry)
    assert [each.idempotency_key for each in server.requests()] == [message().id]


async def test_every_request_of_a_resolve_has_a_key(server: FakeNovu, build: Build) -> None:
    """The SDK would make one up by chance."""
    channel = build(server.url, on_resolve="cancel_and_delete", cancel_within="1ms")
    await sent(channel, message(Kind.RESOLVED, at=1_795_242_600_000, previous_ids=("e" * 32,), age=1.0))
    assert [each.idempotency_key for each in server.requests(method="DELETE")] == ["e" * 32] * 2


@pytest.mark.parametrize(
    ("status", "content_type"),
    [(200, "application/json"), (202, "application/json"), (201, "text/plain"), (201, None)],
)
async def test_an_unusual_acceptance_is_read(build: Build, status: int, content_type: str | None) -> None:
    """The SDK raises for each of these. What the body says counts all the same."""
    headers = {"content-type": content_type} if content_type else {}

    def answer(entry: dict[str, Any]) -> Answer:
        return Answer(status=status, body=json.dumps({"data": entry}).encode(), headers=headers)

    async with Receiver(lambda _: answer({"acknowledged": True, "status": "processed"})) as receiver:
        channel = build(receiver.url)
        assert await sent(channel) == Delivered()
        receiver.otherwise = lambda _: answer(REFUSED)
        assert await sent(channel) == NOT_PROCESSED


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_login_page_delivers_nothing(build: Build, status: int) -> None:
    """Followed, it would end in 200: the POST becomes a GET, with the key still in it. Notifications wait until the
    url is corrected."""

    def answer(request: Received) -> Answer:
        if request.path == "/login":
            return Answer(body=b"<html>Sign in</html>")
        return Answer(status=status, headers={"location": "/login"})

    async with Receiver(answer) as receiver:
        channel = build(receiver.url)
        paused = Paused(Reason.REJECTED, f"{status}: a redirect, which is not followed; correct the url")
        assert await sent(channel) == paused
        assert await channel.send(several(2)) == [paused] * 2
        assert await channel.verify() == [f"Novu does not take the api_key or the url: {status}"]
        assert {request.path for request in receiver.requests}.isdisjoint({"/login"})


async def test_an_error_page_is_an_error(build: Build) -> None:
    """A proxy's page is no JSON, and JSON of another shape makes the SDK raise another exception."""
    async with Receiver() as receiver:
        channel = build(receiver.url)
        receiver.script(Answer(status=400, body=b"<html>no</html>", headers={"content-type": "text/html"}))
        assert await sent(channel) == Rejected(Reason.REJECTED, "400 <html>no</html>")
        receiver.script(of_json(401, {"message": "bad"}))
        assert await sent(channel) == Paused(Reason.UNAUTHORIZED, "401 bad")


@pytest.mark.parametrize("answered", [1, 2, 4])
async def test_events_without_an_answer_are_not_delivered(build: Build, answered: int) -> None:
    """A bulk's answer with fewer or more entries than events: only entries that name an event count."""
    messages = several(3)
    entries = [{"acknowledged": True, "status": "processed", "transactionId": one.id} for one in messages]
    entries.append({"acknowledged": True, "status": "processed", "transactionId": "of-another"})
    async with Receiver(lambda _: of_json(201, {"data": entries[:answered]})) as receiver:
        results = await build(receiver.url).send(messages)
    missing = Rejected(Reason.NOT_PROCESSED, f"no_answer: Novu answered {answered} of 3 events, and not for this one")
    assert results == [Delivered() if number < answered else missing for number in range(3)]


@pytest.mark.parametrize("suffix", ["#2", "?x=1", "/x", "/../" + WORKFLOW, "%"])
async def test_a_workflow_is_looked_up_by_its_whole_name(server: FakeNovu, build: Build, suffix: str) -> None:
    """The SDK cuts a name at `#` and `?`, so the answer was about another workflow."""
    name = WORKFLOW + suffix
    assert await build(server.url, workflow=name).verify() == [f"Novu has no workflow {name!r}"]


async def test_an_id_is_cancelled_as_a_whole(server: FakeNovu, build: Build) -> None:
    """Tocsin's own ids need no quoting; another one must not cancel what is not meant."""
    channel = build(server.url, on_resolve="cancel_and_delete", cancel_within="1ms")
    await sent(channel, message(Kind.RESOLVED, at=1_795_242_600_000, previous_ids=("order-7#2",), age=1.0))
    assert [each.path for each in server.requests(method="DELETE")] == [
        "/v1/events/trigger/order-7%232",
        "/v1/messages/transaction/order-7%232?channel=in_app",
    ]


async def test_numbers_that_json_lacks_reach_novu_as_text(server: FakeNovu, build: Build) -> None:
    """The SDK makes null of NaN."""
    columns = {"ratio": ("numeric", "NaN"), "total": ("numeric", "1.10")}
    for messages in ([message(extra=columns)], several(2, extra=columns)):
        await build(server.url).send(messages)
    rows = [bodies(server, TRIGGER)[0], *bodies(server, BULK)[0]["events"]]
    assert [(row["payload"]["row"]["ratio"], row["payload"]["row"]["total"]) for row in rows] == [
        (message(extra=columns).envelope["row"]["ratio"], message(extra=columns).envelope["row"]["total"])
    ] * 3
    assert rows[0]["payload"]["row"]["ratio"] == "NaN"


# Overrides.


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"fcm": {"tag": "x"}}, "overrides.fcm would not be sent: Novu's SDK knows only steps, channels, providers"),
        ({"steps": {"mail": {"layout": "x"}}}, "overrides.steps.mail.layout would not be sent"),
        ({"channels": {"sms": {"x": 1}}}, "overrides.channels.sms would not be sent: Novu's SDK knows only email"),
        ({"channels": {"email": {"x": 1}}}, "overrides.channels.email.x would not be sent"),
    ],
)
def test_overrides_that_would_be_dropped_are_refused(overrides: dict[str, Any], complaint: str) -> None:
    """For the channel and for an alert."""
    fields = {"type": "novu", "api_key": API_KEY, "workflow": "w", "recipients": ["a"], "overrides": overrides}
    with pytest.raises(ValidationError) as caught:
        novu.Config.model_validate(fields)
    assert complaint in str(caught.value)
    with pytest.raises(ValidationError, match="would not be sent"):
        novu.Options.model_validate({"overrides": overrides})


async def test_overrides_that_are_accepted_reach_novu(server: FakeNovu, build: Build) -> None:
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


def test_known_overrides_are_those_of_the_sdk() -> None:
    """A newer SDK may send more."""

    def names(model: Any) -> set[str]:
        return {name for key, field in model.model_fields.items() for name in (key, field.alias) if name}

    assert names(Overrides) == set(KNOWN_OVERRIDES)
    assert names(StepsOverrides) == set(KNOWN_OVERRIDES["steps"]["*"])
    assert names(Channels) == set(KNOWN_OVERRIDES["channels"])
    assert names(EmailChannelOverrides) == set(KNOWN_OVERRIDES["channels"]["email"])
