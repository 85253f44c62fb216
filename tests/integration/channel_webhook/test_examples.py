"""Every example of docs/channels/webhook.md and docs/migrate-from-estuary-triggers.md is loaded, and its requests are
compared with the documentation of the receiver (`receivers.yaml`)."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import validate

from support.messages import message
from support.receiver import Answer, Received
from support.webhooks import Hooks
from tocsin.channels import webhook
from tocsin.channels.base import Delivered, Message
from tocsin.config import Config, load
from tocsin.config.trial import offline
from tocsin.envelope import View, merged
from tocsin.model import Kind
from tocsin.templates import Template

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "channels" / "webhook.md").read_text(encoding="utf-8")
MIGRATION = (DOCS / "migrate-from-estuary-triggers.md").read_text(encoding="utf-8")
RECEIVERS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("receivers.yaml").read_text(encoding="utf-8"))
ENVIRONMENT = {
    "WEBHOOK_TOKEN": "hook-token",
    "AIRFLOW_TOKEN": "airflow-token",
    "DBT_CLOUD_TOKEN": "dbt-token",
    "SLACK_WEBHOOK_PATH": "T00000000/B00000000/TOKEN",
    "GITHUB_DISPATCH_TOKEN": "github-token",
    "PAGERDUTY_ROUTING_KEY": "0123456789abcdef0123456789abcdef",
    "TEAMS_WORKFLOW_URL": "https://flows.example.com/workflows/abc/triggers/manual/paths/invoke?api-version=1&sig=a%2Bb",
}
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
ROW = {
    "team": ("text", "Shop & Co"),
    "count": ("int", "12"),
    "note": ("text", '"quoted" \\ <!channel> & <b>\nsecond line \N{SNOWMAN} ' + "long " * 1000),
    "severity": ("text", "critical"),
    "acknowledged_by": ("text", None),
}


def blocks(page: str) -> list[str]:
    """The YAML of a page."""
    return re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def loaded(text: str, directory: Path) -> Config:
    """A block as a configuration, with an alert that notifies all its channels unless it has its own."""
    for name, secret in (("webhook-signing", "whsec_" + "b2xk" * 8), ("warehouse", "postgresql://u@h/d")):
        (directory / name).write_text(secret)
        text = text.replace(f"/run/secrets/{name}", str(directory / name))
    if "\nalerts:" not in text:
        text += SPIKE % ", ".join(re.findall(r"^  (\w+):$", text, re.MULTILINE))
    (directory / "tocsin.yaml").write_text(text, encoding="utf-8")
    return load(directory / "tocsin.yaml", ENVIRONMENT)


@pytest.mark.parametrize("text", blocks(PAGE) + blocks(MIGRATION)[1:], ids=lambda text: text.split("\n")[1].strip(" :"))
def test_every_documented_example_loads(text: str, tmp_path: Path) -> None:
    config = loaded(text, tmp_path)
    assert not offline(config)
    assert not config.warnings


def spike(kind: Kind, key: str = "1", **row: tuple[str, str | None]) -> Message:
    return message(kind, alert="spike", key=key, view=VIEW, extra={**ROW, **row})


async def requests(hook: Hooks, config: Config, name: str, *messages: Message) -> list[Received]:
    """What a channel sends for messages, with the host exchanged."""
    channel = config.channels[name]
    url = re.sub(r"https://[^/]+", hook.receiver.url, channel.settings.url.get_secret_value())
    settings = {**channel.settings.model_dump(by_alias=True, exclude_unset=True), "url": url}
    made = webhook.build("out", webhook.Config.model_validate(settings), dict(channel.routes))
    hook.made.append(made)
    assert [(await made.send([one]))[0] for one in messages] == [Delivered()] * len(messages)
    return hook.receiver.requests


def example(name: str, directory: Path) -> Config:
    [text] = [text for text in blocks(PAGE) if f"channels:\n  {name}:" in text]
    return loaded(text, directory)


@pytest.mark.parametrize("name", RECEIVERS)
async def test_example_fits_its_receiver(hook: Hooks, name: str, tmp_path: Path) -> None:
    expected = RECEIVERS[name]
    answers = expected.get("answers", [200])
    hook.receiver.script(*(Answer(status=status) for status in answers))
    hook.receiver.otherwise = lambda _: Answer(status=answers[0])
    kinds = (Kind.FIRED, Kind.RESOLVED)
    messages = [spike(kind) for kind in kinds]
    found = await requests(hook, example(name, tmp_path), name, *messages)
    for request, sent, kind in zip(found, messages, kinds, strict=True):
        assert f"{request.method} {request.path}" == expected["request"]
        headers = {"content-type": "application/json", "idempotency-key": sent.id, **expected.get("headers", {})}
        assert headers.items() <= request.headers.items()
        assert len(request.body) <= expected.get("most", 1_000_000)
        for schema in (expected["body"], expected.get(kind.value, {})):
            validate(request.json, schema)


async def test_airflow_run_has_the_notification_id(hook: Hooks, tmp_path: Path) -> None:
    what = spike(Kind.FIRED)
    [request] = await requests(hook, example("airflow", tmp_path), "airflow", what)
    assert request.json["dag_run_id"] == f"tocsin__{what.id}"


async def test_pagerduty_opens_acknowledges_and_resolves_one_alert(hook: Hooks, tmp_path: Path) -> None:
    acknowledged: dict[str, Any] = {"acknowledged_by": ("text", "Ann")}
    messages = (
        spike(Kind.FIRED),
        spike(Kind.UPDATED, severity=("text", "odd")),
        spike(Kind.UPDATED, **acknowledged),
        spike(Kind.RESOLVED, **acknowledged),
        spike(Kind.FIRED, key="2"),
    )
    found = await requests(hook, example("pagerduty", tmp_path), "pagerduty", *messages)
    bodies = [request.json for request in found]
    assert [body["event_action"] for body in bodies] == ["trigger", "trigger", "acknowledge", "resolve", "trigger"]
    assert [body["dedup_key"] for body in bodies] == [sent.envelope["fingerprint"] for sent in messages]
    assert [body["payload"]["severity"] for body in bodies[:2]] == ["critical", "error"]


async def test_migrated_trigger_sends_the_same_request(hook: Hooks, tmp_path: Path) -> None:
    config = loaded(blocks(MIGRATION)[1], tmp_path)
    settings = config.channels["rebuild"].settings
    assert (settings.timeout, settings.max_attempts) == (30.0, 5)
    assert config.channels["rebuild"].routes["loaded"].interval == 30.0
    assert config.alerts["loaded"].notify == ("rebuild",)
    one, two = (
        message(Kind.UPDATED, alert="loaded", key=table, started_at=at, at=at, extra={"table_name": ("text", table)})
        for table, at in (("orders", 1000), ("items", 5000))
    )
    together = dataclasses.replace(one, envelope=merged([one.envelope, two.envelope]))
    [request] = await requests(hook, config, "rebuild", together)
    trigger = yaml.safe_load(blocks(MIGRATION)[0])["triggers"]["config"]["rebuild"]
    assert f"{request.method} https://airflow.example.com{request.path}" == f"{trigger['method']} {trigger['url']}"
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
