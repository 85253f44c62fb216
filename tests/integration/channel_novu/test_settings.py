"""The settings of a Novu channel, and how they are verified."""

from typing import Any

import pytest
from pydantic import ValidationError

from support.novu import API_KEY, INACTIVE_WORKFLOW, FakeNovu, fake_novu
from support.receiver import Answer, Receiver, of_json
from support.sending import Build, sent, without
from tocsin.channels import novu
from tocsin.channels.base import Delivered
from tocsin.errors import ConfigError
from tocsin_demo.inbox.inbox import Settings
from tocsin_demo.inbox.model import Step

NOT_CONNECTED = {"issueType": "INBOX_NOT_CONNECTED", "message": "Connect an inbox"}
MISSING = {"issueType": "MISSING_VALUE", "message": "Body is required"}


def settings(**changed: Any) -> dict[str, Any]:
    return {"type": "novu", "api_key": "S3CR3T", "workflow": "w", "recipients": ["a"], **changed}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"api_key": "S3CR3T\n"}, "an API key is one line"),
        ({"api_key": "  "}, "an API key is one line"),
        ({"url": "api.novu.co"}, "write the address of the API alone"),
        ({"url": "https://u:S3CR3T@api.novu.co"}, "write the address of the API alone"),
        ({"recipients": [""]}, "at least 1 character"),
        ({"recipients": ["  "]}, "match pattern"),
        ({"recipients": [{"colum": "x"}]}, "colum"),
        ({"payload": {"a": "{{ nope }}"}}, "payload.a: there is no variable 'nope'"),
        ({"actor": "{{ nope }}"}, "actor: there is no variable 'nope'"),
        ({"overrides": {"email": {"x": "{% if %}"}}}, "overrides.email.x: line 1"),
        ({"on_resolve": "trigger"}, "needs resolved_workflow"),
        ({"unknown_outcome_wait": "500ms"}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_refused_without_repeating_secrets(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        novu.Config.model_validate(settings(**changed))
    assert complaint in str(caught.value)
    assert "S3CR3T" not in str(caught.value)


@pytest.mark.parametrize("missing", ["workflow", "recipients"])
def test_an_alert_that_says_too_little_is_refused_by_name(missing: str) -> None:
    fields = settings()
    del fields[missing]
    config = novu.Config.model_validate(fields)
    with pytest.raises(ConfigError, match=rf"alerts\.late\.notify: channel n: .*{missing}"):
        novu.build("n", config, {"late": config})


def test_without_the_sdk_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "novu_py", "tocsin.channels.novu.api", "tocsin.channels.novu.channel")
    config = novu.Config.model_validate(settings())
    with pytest.raises(ConfigError, match=r"pip install 'tocsin\[novu\]'"):
        novu.build("n", config, {"late": config})


# Verified by asking the server.


async def test_nothing_to_complain_about(server: FakeNovu, build: Build) -> None:
    assert await build(server.url).verify() == []


async def test_workflows_that_are_missing_or_inactive_are_named(server: FakeNovu, build: Build) -> None:
    channel = build(server.url, workflow=INACTIVE_WORKFLOW, on_resolve="trigger", resolved_workflow="no-such")
    assert await channel.verify() == [
        "the workflow 'inactive-one' is not active in Novu",
        "Novu has no workflow 'no-such'",
    ]


async def test_names_a_workflow_without_steps(server: FakeNovu, build: Build) -> None:
    """Novu accepts its triggers and delivers nothing; so does the stand-in."""
    server.add_empty_workflow("empty")
    channel = build(server.url, workflow="empty")
    assert await sent(channel) == Delivered()
    await server.until(lambda: server.inbox.engine.counters.undeliverable == 1)
    assert server.notifications() == ()
    assert await channel.verify() == [
        "the workflow 'empty' has no steps, so Novu would accept notifications and deliver none; add a step in Novu"
    ]


async def test_names_a_workflow_that_only_waits(server: FakeNovu, build: Build) -> None:
    """A delay without a step after it delivers nothing either."""
    server.add_workflow("waits", Step(type="delay", seconds=1.0), Step(type="digest", seconds=1.0))
    [problem] = await build(server.url, workflow="waits").verify()
    assert problem.startswith("the workflow 'waits' has only delay and digest steps, so Novu would deliver nothing")


async def test_names_issues_of_steps(build: Build) -> None:
    """An e-mail step where no e-mail provider is set up."""
    async with fake_novu(Settings(api_key=API_KEY, providers=frozenset({"in_app"}))) as server:
        server.add_workflow("mails", Step(type="in_app"), Step(type="email", name="To the owner"))
        [problem] = await build(server.url, workflow="mails").verify()
    issue = "MISSING_INTEGRATION: Missing active email integration provider"
    assert problem == f"step 'To the owner' of the workflow 'mails': {issue}"


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({}, []),
        ({"status": "INACTIVE"}, ["the workflow 'w' is not active in Novu"]),
        ({"status": "ERROR"}, ["the workflow 'w' has the status ERROR in Novu; open it there to see why"]),
        ({"steps": [{"type": "in_app", "issues": {"integration": {"in_app": [NOT_CONNECTED]}}}]}, []),
        (
            {"status": "ERROR", "steps": [{"type": "sms", "stepId": "s", "issues": {"controls": {"body": [MISSING]}}}]},
            ["step 's' of the workflow 'w': MISSING_VALUE: Body is required"],
        ),
        ({"steps": [{"type": "of-a-later-version", "issues": {"integration": None, "controls": {"x": "?"}}}]}, []),
        ({"steps": None, "status": 7}, []),
    ],
)
async def test_a_document_the_sdk_cannot_read_is_judged(
    build: Build, changed: dict[str, Any], problems: list[str]
) -> None:
    """Only the fields that say something are there."""
    document = {"workflowId": "w", "active": True, "status": "ACTIVE", "steps": [{"type": "in_app"}], **changed}

    def answer(request: Any) -> Answer:
        return of_json(200, {"data": False if request.method == "DELETE" else document})

    async with Receiver(answer) as receiver:
        assert await build(receiver.url, workflow="w").verify() == problems


async def test_a_wrong_key_is_named_as_such(server: FakeNovu, build: Build) -> None:
    assert await build(server.url, api_key="wrong").verify() == [
        "Novu does not take the api_key or the url: 401 API Key not found"
    ]


async def test_an_unreachable_server_is_told(build: Build) -> None:
    async with Receiver() as receiver:
        url = receiver.url
    [problem] = await build(url).verify()
    assert problem.startswith("Novu does not answer: cannot connect")


async def test_a_server_that_is_too_old_to_ask_is_no_problem(build: Build) -> None:
    def old(request: Any) -> Answer:
        if request.method == "DELETE":
            return of_json(200, {"data": False})
        return of_json(404, {"statusCode": 404, "message": f"Cannot GET {request.path}"})

    async with Receiver(old) as receiver:
        assert await build(receiver.url).verify() == []
