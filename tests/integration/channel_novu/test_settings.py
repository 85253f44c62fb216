"""The settings of a Novu channel, and how they are verified."""

from typing import Any

import pytest
from novu_py.models import EmailChannelOverrides, StepsOverrides
from novu_py.models.triggereventrequestdto import Channels, Overrides

from support.novu import API_KEY, INACTIVE_WORKFLOW, WORKFLOW, FakeNovu, fake_novu
from support.receiver import Answer, Receiver, of_json
from support.sending import Build, sent, without
from tocsin.channels import novu
from tocsin.channels.base import Delivered
from tocsin.channels.novu.settings import KNOWN_OVERRIDES
from tocsin.errors import ConfigError
from tocsin_demo.inbox.inbox import Settings
from tocsin_demo.inbox.model import Step

NOT_CONNECTED = {"issueType": "INBOX_NOT_CONNECTED", "message": "Connect an inbox"}
MISSING = {"issueType": "MISSING_VALUE", "message": "Body is required"}


def test_known_overrides_are_those_of_the_sdk() -> None:
    """A newer SDK may send more."""

    def names(model: Any) -> set[str]:
        return {name for key, field in model.model_fields.items() for name in (key, field.alias) if name}

    assert names(Overrides) == set(KNOWN_OVERRIDES)
    assert names(StepsOverrides) == set(KNOWN_OVERRIDES["steps"]["*"])
    assert names(Channels) == set(KNOWN_OVERRIDES["channels"])
    assert names(EmailChannelOverrides) == set(KNOWN_OVERRIDES["channels"]["email"])


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"recipients": ["a"]}, "no workflow"),
        ({"workflow": "w"}, "neither recipients"),
        ({"workflow": "w", "topics": ["t"]}, None),
    ],
)
def test_workflow_and_recipients_must_be_set(given: dict[str, Any], missing: str | None) -> None:
    """For the channel or for the alert, so that only both together can be incomplete."""
    found = novu.Options.model_validate(given).missing()
    assert found is None if missing is None else found is not None and found.startswith(missing)


def test_missing_sdk_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "novu_py", "tocsin.channels.novu.api", "tocsin.channels.novu.channel")
    config = novu.Config.model_validate({"type": "novu", "api_key": "k", "workflow": "w", "recipients": ["a"]})
    with pytest.raises(ConfigError, match=r"pip install 'tocsin\[novu\]'"):
        novu.build("n", config, {"late": config})


# Verified by asking the server.


async def test_missing_and_inactive_workflows_are_named(server: FakeNovu, build: Build) -> None:
    """The SDK cuts a name at `#`, so it would find another workflow."""
    assert await build(server.url).verify() == []
    other = f"{WORKFLOW}#2"
    channel = build(server.url, workflow=INACTIVE_WORKFLOW, on_resolve="trigger", resolved_workflow=other)
    assert sorted(await channel.verify()) == [
        f"Novu has no workflow {other!r}",
        "the workflow 'inactive-one' is not active in Novu",
    ]


async def test_workflow_that_delivers_nothing_is_named(build: Build) -> None:
    """Novu accepts its triggers."""
    async with fake_novu(Settings(api_key=API_KEY, providers=frozenset({"in_app"}))) as server:
        server.inbox.engine.add_workflow("empty", now=0, steps=())
        server.add_workflow("waits", Step(type="delay", seconds=1.0), Step(type="digest", seconds=1.0))
        server.add_workflow("mails", Step(type="in_app"), Step(type="email", name="Mail"))
        channel = build(server.url, workflow="empty", on_resolve="trigger", resolved_workflow="waits")
        assert await sent(channel) == Delivered()
        await server.until(lambda: server.inbox.engine.counters.undeliverable == 1)
        empty, waits = await channel.verify()
        [mails] = await build(server.url, workflow="mails").verify()
    assert empty.startswith("the workflow 'empty' has no steps")
    assert waits.startswith("the workflow 'waits' has only delay and digest steps")
    assert mails.startswith("step 'Mail' of the workflow 'mails': MISSING_INTEGRATION")


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({}, []),
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
async def test_document_unknown_to_the_sdk_is_read(build: Build, changed: dict[str, Any], problems: list[str]) -> None:
    document = {"workflowId": "w", "active": True, "status": "ACTIVE", "steps": [{"type": "in_app"}], **changed}

    def answer(request: Any) -> Answer:
        return of_json(200, {"data": False if request.method == "DELETE" else document})

    async with Receiver(answer) as receiver:
        assert await build(receiver.url, workflow="w").verify() == problems


@pytest.mark.parametrize("status", [401, 302])
async def test_wrong_key_or_url_is_named(build: Build, status: int) -> None:
    async with Receiver(lambda _: Answer(status=status)) as receiver:
        [problem] = await build(receiver.url).verify()
    assert problem.startswith(f"Novu does not accept the api_key or the url: {status}")
    [problem] = await build(receiver.url).verify()
    assert problem.startswith("Novu does not answer: cannot connect")


async def test_server_without_workflow_api_is_accepted(build: Build) -> None:
    def old(request: Any) -> Answer:
        if request.method == "DELETE":
            return of_json(200, {"data": False})
        return of_json(404, {"statusCode": 404, "message": f"Cannot GET {request.path}"})

    async with Receiver(old) as receiver:
        assert await build(receiver.url).verify() == []
