"""Every example of docs/channels/webhook.md and docs/migrate-from-estuary-triggers.md is loaded, and its
requests are compared with the documentation of the receiver."""

import dataclasses
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.messages import TEXT
from support.receiver import Answer, Received, Receiver
from tocsin.channels import webhook
from tocsin.channels.base import Delivered, Message
from tocsin.config import Config, load
from tocsin.config.trial import offline
from tocsin.envelope import View, build, merged
from tocsin.model import Column, Kind, Transition, fingerprint, notification_id
from tocsin.templates import Template

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "channels" / "webhook.md").read_text(encoding="utf-8")
MIGRATION = (DOCS / "migrate-from-estuary-triggers.md").read_text(encoding="utf-8")
ENVIRONMENT = {
    "WEBHOOK_TOKEN": "hook-token",
    "AIRFLOW_TOKEN": "airflow-token",
    "DBT_CLOUD_TOKEN": "dbt-token",
    "SLACK_WEBHOOK_PATH": "T00000000/B00000000/XXXXXXXXXXXX",
    "GITHUB_DISPATCH_TOKEN": "github-token",
    "PAGERDUTY_ROUTING_KEY": "0123456789abcdef0123456789abcdef",
    "TEAMS_WORKFLOW_URL": "https://flows.example.com/workflows/abc/triggers/manual/paths/invoke?api-version=1&sig=a%2Bb",
}
SIGNING = "whsec_" + "b2xk" * 8
SPIKE = """
sources: {db: {type: postgres, host: h, user: u}}
alerts:
  spike:
    source: db
    relation: v
    labels: [team]
    value: count
    annotations: {summary: "{{ row.note }}"}
    notify: [%s]
"""
VIEW = View(labels=(("team", "team"),), value="count", annotations={"summary": Template("{{ row.note }}")})
NASTY = '"quoted" \\ <!channel> & <b>\nsecond line \N{SNOWMAN} ' + "long " * 1000


def blocks(page: str) -> list[str]:
    """The YAML of a page."""
    return re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def loaded(text: str, directory: Path) -> Config:
    """A block as a configuration, with an alert that notifies all its channels unless it has its own."""
    signing = directory / "signing"
    signing.write_text(SIGNING)
    for name in ("webhook-signing", "warehouse"):
        content = signing if name == "webhook-signing" else directory / "dsn"
        (directory / "dsn").write_text("postgresql://u@h/d")
        text = text.replace(f"/run/secrets/{name}", str(content))
    if "\nalerts:" not in text:
        text += SPIKE % ", ".join(re.findall(r"^  (\w+):$", text, re.MULTILINE))
    file = directory / "tocsin.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, ENVIRONMENT)


@pytest.mark.parametrize("text", blocks(PAGE) + blocks(MIGRATION)[1:], ids=lambda text: text.split("\n")[1].strip(" :"))
def test_every_documented_example_loads(text: str, tmp_path: Path) -> None:
    config = loaded(text, tmp_path)
    assert not offline(config)
    assert not config.warnings


def example(name: str) -> str:
    [text] = [text for text in blocks(PAGE) if f"channels:\n  {name}:" in text]
    return text


def notification(kind: Kind, key: str = "1", **row: str | None) -> Message:
    """A message about a row of the alert `spike`: team, count, note, severity, acknowledged_by."""
    values: dict[str, str | None] = {
        "team": "Shop & Co",
        "count": "12",
        "note": NASTY,
        "severity": "critical",
        "acknowledged_by": None,
    }
    values |= row
    types = {"count": 20}
    transition = Transition(
        alert="spike",
        fingerprint=fingerprint("spike", [key]),
        kind=kind,
        started_at=1_795_242_548_000,
        at=1_795_242_548_000 + list(Kind).index(kind) * 1000,
        columns=tuple(Column(name=name, oid=types.get(name, TEXT)) for name in values),
        row=tuple(values.values()),
        previous=tuple(values.values()) if kind is Kind.UPDATED else None,
    )
    id_ = notification_id(transition, "out")
    return Message(id=id_, alert="spike", kind=kind, envelope=build(transition, id_, VIEW))


Send = Callable[..., Any]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as server:
        yield server


async def requests(name: str, directory: Path, receiver: Receiver, status: int, *messages: Message) -> list[Received]:
    """What an example sends for messages to a receiver that answers with this status, with the host exchanged."""
    receiver.otherwise = lambda _: Answer(status=status)
    config = loaded(example(name), directory).channels[name]
    url = re.sub(r"https://[^/]+", receiver.url, config.settings.url.get_secret_value())
    settings = {**config.settings.model_dump(by_alias=True, exclude_unset=True), "url": url}
    channel = webhook.build("out", webhook.Config.model_validate(settings), dict(config.routes))
    try:
        results = [(await channel.send([message]))[0] for message in messages]
    finally:
        await channel.close()
    assert results == [Delivered()] * len(messages)
    for request, message in zip(receiver.requests, messages, strict=True):
        assert request.headers["idempotency-key"] == message.id
        assert request.headers["content-type"] == "application/json"
        assert request.headers["user-agent"]
    return receiver.requests


def only(body: Mapping[str, Any], *, required: set[str], known: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """That an object has what it must have, and nothing that the receiver does not know."""
    assert required <= body.keys() <= required | known


async def test_airflow_run_has_the_notification_id(tmp_path: Path, receiver: Receiver) -> None:
    messages = notification(Kind.FIRED), notification(Kind.RESOLVED)
    found = await requests("airflow", tmp_path, receiver, 200, *messages)
    for request, message in zip(found, messages, strict=True):
        assert (request.method, request.path) == ("POST", "/api/v2/dags/rebuild_report/dagRuns")
        assert request.headers["authorization"] == "Bearer airflow-token"
        # TriggerDAGRunPostBody forbids other keys, and requires logical_date, which may be null.
        known = {"dag_run_id", "data_interval_start", "data_interval_end", "run_after", "conf", "note"}
        only(request.json, required={"logical_date"}, known=known)
        assert request.json["dag_run_id"] == f"tocsin__{message.id}"
        assert re.fullmatch(r"[A-Za-z0-9_.~:+-]+", request.json["dag_run_id"])  # allowed_run_id_pattern
        assert len(request.json["dag_run_id"]) <= 250
        assert len(request.json["note"]) <= 1000
        assert request.json["logical_date"] is None
        assert request.json["conf"]["row"]["note"] == NASTY
        assert request.json["conf"]["status"] == message.kind


async def test_existing_airflow_run_is_delivered(tmp_path: Path, receiver: Receiver) -> None:
    assert await requests("airflow", tmp_path, receiver, 409, notification(Kind.FIRED))


async def test_dbt_cloud_gets_a_cause(tmp_path: Path, receiver: Receiver) -> None:
    for request in await requests(
        "dbt", tmp_path, receiver, 200, notification(Kind.FIRED), notification(Kind.RESOLVED)
    ):
        assert (request.method, request.path) == ("POST", "/api/v2/accounts/12345/jobs/67890/run/")
        assert request.headers["authorization"] == "Token dbt-token"
        assert request.json == {"cause": f"spike: {NASTY}"}


async def test_slack_gets_blocks_without_markup_of_a_row(tmp_path: Path, receiver: Receiver) -> None:
    fired, resolved = await requests(
        "slack", tmp_path, receiver, 200, notification(Kind.FIRED), notification(Kind.RESOLVED)
    )
    for request, word in ((fired, "fired"), (resolved, "resolved")):
        assert (request.method, request.path) == ("POST", "/services/T00000000/B00000000/XXXXXXXXXXXX")
        only(request.json, required={"text"}, known={"blocks"})
        assert request.json["text"] == f"spike {word}"
        header, section, context = request.json["blocks"]
        assert (header["type"], header["text"]["type"]) == ("header", "plain_text")
        assert len(header["text"]["text"]) <= 150
        assert (section["type"], section["text"]["type"]) == ("section", "mrkdwn")
        assert len(section["text"]["text"]) <= 3000
        assert "&lt;!channel&gt; &amp; &lt;b&gt;\nsecond" in section["text"]["text"]
        assert "<" not in section["text"]["text"]
        assert (context["type"], len(context["elements"])) == ("context", 1)
        assert len(request.json["blocks"]) <= 50
    assert fired.json["blocks"][0]["text"]["text"] == "🔴 spike"
    assert resolved.json["blocks"][0]["text"]["text"] == "🟢 spike"


async def test_github_event_has_few_enough_keys(tmp_path: Path, receiver: Receiver) -> None:
    found = await requests("github", tmp_path, receiver, 204, notification(Kind.FIRED), notification(Kind.RESOLVED))
    for request, word in zip(found, ("fired", "resolved"), strict=True):
        assert (request.method, request.path) == ("POST", "/repos/example/reports/dispatches")
        assert request.headers["authorization"] == "Bearer github-token"
        assert request.headers["accept"] == "application/vnd.github+json"
        assert request.headers["x-github-api-version"] == "2022-11-28"
        only(request.json, required={"event_type"}, known={"client_payload"})
        assert request.json["event_type"] == f"tocsin-{word}"
        assert len(request.json["event_type"]) <= 100
        assert 0 < len(request.json["client_payload"]) <= 10
        assert request.json["client_payload"]["row"]["count"] == 12


async def test_pagerduty_opens_acknowledges_and_resolves_one_alert(tmp_path: Path, receiver: Receiver) -> None:
    messages = (
        notification(Kind.FIRED),
        notification(Kind.UPDATED, severity="odd"),
        notification(Kind.UPDATED, acknowledged_by="Ann"),
        notification(Kind.RESOLVED, acknowledged_by="Ann"),
        notification(Kind.FIRED, key="2"),
    )
    found = [request.json for request in await requests("pagerduty", tmp_path, receiver, 202, *messages)]
    assert [body["event_action"] for body in found] == ["trigger", "trigger", "acknowledge", "resolve", "trigger"]
    one, other = {body["dedup_key"] for body in found[:4]}, found[4]["dedup_key"]
    assert one == {messages[0].envelope["fingerprint"]}
    assert other not in one
    for request in receiver.requests:
        assert (request.method, request.path) == ("POST", "/v2/enqueue")
        body = request.json
        only(
            body,
            required={"routing_key", "event_action", "dedup_key", "payload"},
            known={"client", "client_url", "links", "images"},
        )
        assert body["routing_key"] == ENVIRONMENT["PAGERDUTY_ROUTING_KEY"]
        assert len(body["dedup_key"]) <= 255
        known = {"timestamp", "component", "group", "class", "custom_details"}
        only(body["payload"], required={"summary", "source", "severity"}, known=known)
        assert 0 < len(body["payload"]["summary"]) <= 1024
        assert body["payload"]["severity"] in ("critical", "error", "warning", "info")
        assert datetime.fromisoformat(body["payload"]["timestamp"]).tzinfo
        assert isinstance(body["payload"]["custom_details"], dict)
        assert len(request.body) <= 512 * 1024
    assert [body["payload"]["severity"] for body in found[:2]] == ["critical", "error"]


async def test_teams_gets_an_adaptive_card(tmp_path: Path, receiver: Receiver) -> None:
    fired, resolved = await requests(
        "teams", tmp_path, receiver, 202, notification(Kind.FIRED), notification(Kind.RESOLVED)
    )
    for request in (fired, resolved):
        assert (request.method, request.path.partition("?")[0]) == (
            "POST",
            "/workflows/abc/triggers/manual/paths/invoke",
        )
        assert "sig=a%2Bb" in request.path
        assert len(request.body) <= 28 * 1024
        only(request.json, required={"type", "attachments"})
        [attachment] = request.json["attachments"]
        only(attachment, required={"contentType", "content"}, known={"contentUrl"})
        assert (request.json["type"], attachment["contentType"]) == (
            "message",
            "application/vnd.microsoft.card.adaptive",
        )
        card = attachment["content"]
        only(card, required={"type", "version", "body"}, known={"$schema", "actions", "msteams"})
        assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
        title, text, facts = card["body"]
        assert (title["type"], text["type"], facts["type"]) == ("TextBlock", "TextBlock", "FactSet")
        assert all(isinstance(fact[key], str) for fact in facts["facts"] for key in ("title", "value"))
    colours = [request.json["attachments"][0]["content"]["body"][0]["color"] for request in (fired, resolved)]
    assert colours == ["Attention", "Good"]


async def test_migrated_trigger_sends_the_same_request(tmp_path: Path, receiver: Receiver) -> None:
    config = loaded(blocks(MIGRATION)[1], tmp_path)
    alert, channel = config.alerts["loaded"], config.channels["rebuild"]
    assert (channel.settings.timeout, channel.settings.max_attempts) == (30.0, 5)
    assert channel.routes["loaded"].interval == 30.0
    assert alert.notify == ("rebuild",)
    one, two = (_loaded(table, at) for table, at in (("orders", 1000), ("items", 5000)))
    together = dataclasses.replace(one, envelope=merged([one.envelope, two.envelope]))
    url = re.sub(r"https://[^/]+", receiver.url, channel.settings.url.get_secret_value())
    settings = {**channel.settings.model_dump(by_alias=True, exclude_unset=True), "url": url}
    hook = webhook.build("rebuild", webhook.Config.model_validate(settings), dict(channel.routes))
    assert await hook.send([together]) == [Delivered()]
    await hook.close()
    [request] = receiver.requests
    trigger = yaml.safe_load(blocks(MIGRATION)[0])["triggers"]["config"]["rebuild"]
    assert request.method == trigger["method"]
    assert receiver.url + request.path == re.sub(r"https://[^/]+", receiver.url, trigger["url"])
    assert request.json == {
        "dag_run_id": one.id,
        "logical_date": None,
        "conf": {
            "name": "loaded",
            "collections": ["orders", "items"],
            "from": "1970-01-01T00:00:01.000Z",
            "to": "1970-01-01T00:00:05.000Z",
        },
    }


def _loaded(table: str, at: int) -> Message:
    transition = Transition(
        alert="loaded",
        fingerprint=fingerprint("loaded", [table]),
        kind=Kind.UPDATED,
        started_at=at,
        at=at,
        columns=(Column(name="table_name", oid=TEXT), Column(name="loaded_at", oid=1184)),
        row=(table, "2026-01-02 03:04:05+00"),
        previous=(table, "2026-01-02 03:04:04+00"),
    )
    id_ = notification_id(transition, "rebuild")
    return Message(id=id_, alert="loaded", kind=Kind.UPDATED, envelope=build(transition, id_, View()))
