"""In which parts two configurations differ for the processes that share a ledger."""
# ruff: noqa: E501 - a case of a table is one line, whatever is in it

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.config import load_text
from tocsin.config.parts import parts

ROOT = Path(__file__).parents[2]

CONFIG = """
sources:
  shop: {{type: postgres, {shop}}}
  stream: {{type: kafka, bootstrap_servers: [k], {stream}}}
  queue: {{type: rabbitmq, queue: q, {queue}}}
channels:
  hook: {{type: webhook, {hook}}}
  phone: {{type: novu, api_key: {key}, {phone}}}
alerts:
  late: {{source: shop, relation: v, key: [id], notify: [hook, {{channel: phone, workflow: w, recipients: [a]}}], {late}}}
  order: {{source: stream, topic: t, notify: [hook]}}
"""
USUAL = {
    "shop": "dsn: postgresql://u:p@db/shop",
    "stream": "",
    "queue": "url: amqp://u:p@mq/v",
    "hook": "url: https://example.com/a",
    "key": "secret",
    "phone": "",
    "late": "",
}


def found(directory: Path, changed: dict[str, str]) -> dict[str, str]:
    return parts(load_text(directory, CONFIG.format(**USUAL | changed), HOSTNAME="host-a"))


@pytest.mark.parametrize(
    ("before", "after", "differ"),
    [
        # What mistakes look like.
        ({}, {"shop": "dsn: postgresql://u:p@db/staging"}, ["sources.shop.dsn"]),
        ({}, {"shop": "dsn: postgresql://u:p@other/shop"}, ["sources.shop.dsn"]),
        ({}, {"shop": "dsn: postgresql://v:p@db/shop"}, ["sources.shop.dsn"]),
        (
            {"shop": "dsn: host=db user=u password=p"},
            {"shop": "dsn: host=db user=u dbname=b password=p"},
            ["sources.shop.dsn"],
        ),
        ({"shop": "host: db, user: u"}, {"shop": "host: other, user: u"}, ["sources.shop.host"]),
        ({}, {"queue": "url: amqp://u:p@mq/w"}, ["sources.queue.url"]),
        ({}, {"hook": "url: https://example.com/b"}, ["channels.hook.url"]),
        ({}, {"hook": "url: https://example.com/a, max_attempts: 3"}, ["channels.hook.max_attempts"]),
        ({}, {"late": "static_labels: {on: '${HOSTNAME}'}"}, ["alerts.late"]),
        ({}, {"late": "for: 1m"}, ["alerts.late"]),
        # What differs between machines, or for the time that a secret is renewed.
        ({}, {"shop": "dsn: postgresql://u:q@db/shop"}, []),
        ({}, {"shop": "dsn: postgresql://u@db/shop, password: q"}, []),
        ({}, {"shop": "dsn: 'postgresql://u:p@db/shop?application_name=${HOSTNAME}&sslrootcert=/b.pem'"}, []),
        (
            {},
            {"shop": "dsn: postgresql://u:p@db/shop, sslrootcert: /b.pem, options: {application_name: '${HOSTNAME}'}"},
            [],
        ),
        ({"shop": "host: db, user: u, password: a"}, {"shop": "host: db, user: u, password: b"}, []),
        ({}, {"queue": "url: amqp://u:q@mq/v, consumer_tag: '${HOSTNAME}'"}, []),
        ({"stream": "librdkafka: {client.id: host-b}"}, {"stream": "librdkafka: {client.id: '${HOSTNAME}'}"}, []),
        ({}, {"key": "a-host-in-a-secret"}, []),
        ({}, {"hook": "url: https://u:p@example.com/a"}, []),
        ({"hook": "url: https://a, headers: {X: a}"}, {"hook": "url: https://a, headers: {X: b}"}, []),
        # The same, written otherwise.
        ({}, {"hook": "url: https://example.com/a, timeout: 10s"}, []),
        ({}, {"shop": "dsn: host=db user=u password=p dbname=shop"}, []),
    ],
)
def test_parts_are_those_that_people_would_name(
    tmp_path: Path, before: dict[str, str], after: dict[str, str], differ: list[str]
) -> None:
    one, other = found(tmp_path, before), found(tmp_path, after)
    assert sorted(part for part in one.keys() | other.keys() if one.get(part) != other.get(part)) == differ


def test_files_of_secrets_may_be_elsewhere(tmp_path: Path) -> None:
    names = [tmp_path / "one", tmp_path / "two"]
    for name in names:
        name.write_text(f"https://example.com/{len(names)}\n", encoding="utf-8")
    one, other = (found(tmp_path, {"hook": f"url_file: {name}"}) for name in names)
    assert one == other
    names[1].write_text("https://example.com/other", encoding="utf-8")
    assert found(tmp_path, {"hook": f"url_file: {names[1]}"}).items() ^ one.items() == {
        ("channels.hook.url", one["channels.hook.url"]),
        ("channels.hook.url", found(tmp_path, {"hook": "url: https://example.com/other"})["channels.hook.url"]),
    }


def test_parts_are_the_same_in_every_process() -> None:
    """Of the example with all kinds of sources and channels: nothing of the order of a set, or of an address in memory."""
    script = (
        "import json, os; from pathlib import Path; from tocsin.config import load; from tocsin.config.parts import parts;"
        "print(json.dumps(parts(load(Path('exporter/tocsin.example.yaml'), os.environ))))"
    )
    answers = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", script],
                cwd=ROOT,
                env={**os.environ, "NOVU_SECRET_KEY": "key", "PYTHONHASHSEED": seed},
                check=True,
                capture_output=True,
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert len(answers[0]) > 50
    assert answers[0] == answers[1]
