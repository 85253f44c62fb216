"""What `tocsin check` finds once a file is valid: offline on this machine, online at sources and channels."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from support.channels import FakeChannel
from support.config import FakeSource, load_text
from tocsin.config.check import check, check_online
from tocsin.errors import Problem, SourceError, SourceReason
from tocsin.model import Column

BEGIN = """\
sources: {db: {type: postgres, host: h, user: u}}
channels:
  out: {type: webhook, url: 'http://127.0.0.1/'}
alerts:
  spike:
    source: db
    relation: v
"""


def places(problems: Sequence[Problem]) -> list[tuple[int | None, str, str, str]]:
    return [(one.line, one.path, one.code, one.name) for one in problems]


async def test_problems_of_columns_have_names(tmp_path: Path) -> None:
    """Whatever the text is. Two columns with one name are refused."""
    column = Column(name="organization", oid=25)
    config = load_text(tmp_path, BEGIN + "    key: [organisation]\n")
    unknown, ambiguous = await check_online(config, {"db": FakeSource((column, column))}, {})
    assert places([unknown, ambiguous]) == [
        (8, "alerts.spike.key[0]", "unknown_column", "organisation"),
        (5, "alerts.spike", "ambiguous_column", "organization"),
    ]
    assert unknown.available == ("organization", "organization")


async def test_unreachable_source_is_reported_once(tmp_path: Path) -> None:
    away = [SourceError(f"u@h:5432/postgres: no answer within {n} s", SourceReason.CONNECT) for n in (3, 4)]
    config = load_text(tmp_path, BEGIN + "  other: {source: db, relation: w}\n")
    problems = await check_online(config, {"db": FakeSource(errors=away)}, {})
    assert places(problems) == [(1, "sources.db", "source", "")]


async def test_missing_relation_is_reported_at_the_alert(tmp_path: Path) -> None:
    missing = FakeSource(errors=[SourceError("unknown catalog item 'v'", SourceReason.MISSING)] * 2)
    config = load_text(tmp_path, BEGIN)
    assert places(await check_online(config, {"db": missing}, {})) == [(7, "alerts.spike.relation", "source", "")]
    rows = EVENTS.replace("['h:1']}", "['h:1'], state: true}").replace("  late: {source: broker, notify: [out]}\n", "")
    assert places(await check_online(load_text(tmp_path, rows), {"broker": missing}, {})) == [
        (6, "alerts.paid.topic", "source", ""),
    ]


async def test_verdict_of_channel_is_reported(tmp_path: Path) -> None:
    class Strict(FakeChannel):
        async def verify(self) -> list[str]:
            return ["there is no workflow w"]

    channels = {"out": Strict(), "bare": FakeChannel()}
    [problem] = await check_online(load_text(tmp_path, BEGIN), {}, channels)
    assert (problem.line, problem.path, problem.message) == (3, "channels.out", "there is no workflow w")


EVENTS = """\
sources:
  broker: {type: kafka, bootstrap_servers: ['h:1']}
  posted: {type: http, token: 0123456789abcdef}
channels: {out: {type: console}}
alerts:
  late: {source: broker, notify: [out]}
  paid: {source: broker, topic: shop.payments, notify: [out]}
  backup: {source: posted, event: backup_failed, notify: [out]}
"""


async def test_event_source_is_asked_once_for_all_names(tmp_path: Path) -> None:
    """Its alerts cannot be checked where its columns are not known."""
    broker, posted = FakeSource(problems=["no topic late", "no topic shop.payments"]), FakeSource()
    problems = await check_online(load_text(tmp_path, EVENTS), {"broker": broker, "posted": posted, "x": object()}, {})
    assert (broker.names, posted.names) == (["late", "shop.payments"], ["backup_failed"])
    assert places(problems) == [(2, "sources.broker", "refused", "")] * 2


def test_what_this_machine_lacks_is_found_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories, files, packages and handlers."""
    monkeypatch.setattr("tocsin.config.check.find_spec", lambda name: None if name in ("aio_pika", "apprise") else name)
    text = f"""\
sources:
  db: {{type: postgres, host: h, user: u, sslrootcert: system, sslcert: {tmp_path}/x.pem}}
  letters: {{type: rabbitmq, host: h, user: u, password: p, queue: q}}
channels: {{sms: {{type: apprise, urls: ['json://h']}}, own: {{type: python, handler: 'no_such_module:f'}}}}
alerts: {{late: {{source: letters, notify: [sms, own]}}}}
ledger: {{path: {tmp_path}/none/t.db}}
log: {{output: {tmp_path}/c.log}}
"""
    assert places(check(load_text(tmp_path, text))) == [
        (6, "ledger.path", "no_directory", f"{tmp_path}/none"),
        (2, "sources.db.sslcert", "missing_file", f"{tmp_path}/x.pem"),
        (3, "sources.letters.type", "missing_package", "rabbitmq"),
        (4, "channels.sms.type", "missing_package", "apprise"),
        (4, "channels.own.handler", "handler", ""),
    ]
