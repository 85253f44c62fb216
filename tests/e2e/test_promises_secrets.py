"""Promise 7: no secret anywhere. Every place for a secret has a unique one, every step that can fail fails at servers
that repeat their requests, and then all output is searched."""

import asyncio
import base64
import json
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import structlog

from support.novu import fake_novu
from support.receiver import Answer, Received, of_json
from support.tocsin import Harness, TocsinProcess, command, new_harness, quick_channel, quick_source, write
from support.waiting import until_some
from tocsin.cli import main

pytestmark = pytest.mark.e2e

MARK = "hushhush"
"""Part of every secret; searched in upper case too, and in encodings."""

PAGES = (
    *("/", "/metrics", "/readyz", "/healthz", "/static/page.js", "/nonesuch"),
    *(f"/api/v1/{name}" for name in ("status", "alerts", "channels", "firing", "notifications", "dead-letters")),
    "/api/v1/notifications/nonesuch",
    "/api/v1/explain/orders?key=1",
)
COMMANDS = ("check --show", "check --online", "outbox list", "outbox list --json", "explain orders 1 --json")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"))
        made.config["web"]["admin"] = True
        yield made


def traces(text: str) -> list[str]:
    """Where a secret shows in a text, plainly or in base64 or percent encoding."""
    needles = [_base64(shift) for shift in range(3)]
    return [
        line for line in text.splitlines() if MARK in unquote(line).lower() or any(needle in line for needle in needles)
    ]


def _base64(shift: int) -> str:
    """The constant part of the mark in base64, by its offset in bytes (modulo 3)."""
    encoded = base64.b64encode(b"x" * shift + MARK.encode()).decode()
    return encoded[-(-8 * shift // 6) : 8 * (shift + len(MARK)) // 6]


def clean(text: str, where: str) -> None:
    assert not traces(text), f"{where}: {traces(text)[:3]}"


async def everything(harness: Harness, tocsin: TocsinProcess, *commands: str) -> None:
    """Search all output and files of the process, and the output of these commands."""
    for path in PAGES:
        status, text = await tocsin.get(path)
        assert status in (200, 404, 503), path
        clean(text, path)
    clean("\n".join(tocsin.log), "log")
    clean("\n".join(tocsin.output), "standard output")
    for file in harness.directory.glob("ledger.db*"):
        clean(file.read_bytes().decode("latin-1"), file.name)
    for line in commands:
        output = await asyncio.to_thread(printed, *line.split(), "-c", str(tocsin.file))
        assert "Traceback" not in output, output
        clean(output, line)


def printed(*arguments: str) -> str:
    """What a command prints. It runs in this process, since a start takes a second of CPU."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        with StringIO() as text, redirect_stdout(text), redirect_stderr(text):
            main(arguments)
            return text.getvalue()
    finally:
        root.handlers, root.level = handlers, level
        structlog.reset_defaults()


def echo(request: Received) -> Answer:
    """A server that leaks: it fails as the header `x-answer` says, and repeats its headers, or its address."""
    status, what = request.headers["x-answer"].split()
    headers = {name: text for name, text in request.headers.items() if name in SECRET_HEADERS}
    words = f"{request.path} {unquote(request.path)}" if what == "address" else f"{json.dumps(headers)} {headers}"
    return Answer(status=int(status), body=words.encode(), headers={"location": request.path}, cut=what == "cut")


SECRET_HEADERS = ("authorization", "authorization-too", "x-api-key")
ANSWERS = [f"{status} {what}" for status in (400, 401, 500, 302) for what in ("headers", "address")]


def secret_hook(host: str, answer: str = "500 cut", scheme: str = "http") -> dict[str, Any]:
    """A webhook with a secret in its user-info, path, query and headers."""
    return quick_channel(
        f"{scheme}://hushhush-user:hushhush-pass@{host}/services/HUSHHUSH-token-0001?key=hushhush%2Fkey-0001&v=1",
        headers={
            "Authorization-Too": "Bearer hushhush-bearer-0001",
            "X-Api-Key": 'hushhush:key\\with"quotes',
            "X-Answer": answer,
        },
        max_attempts=2,
    )


async def test_promise_7_failing_receivers(harness: Harness) -> None:
    """Catches an answer, an address or a header that goes into a log, the ledger or the API as it came."""
    harness.receiver.otherwise = echo
    host = harness.receiver.url.removeprefix("http://")
    channels = {answer.replace(" ", "-"): secret_hook(host, answer) for answer in ANSWERS}
    channels |= {
        "refuses": secret_hook("127.0.0.1:1"),
        "unresolved": secret_hook("no-such-host.invalid"),
        "cuts": secret_hook(host),
        "no-tls": secret_hook(host, scheme="https"),
    }
    harness.config["channels"] = channels
    harness.alert["notify"] = [*channels]
    async with harness.run() as tocsin:
        await tocsin.until_ready()

        async def noted() -> bool:
            found = (await tocsin.json("/api/v1/notifications"))["notifications"]
            assert {one["channel"] for one in found if one["reason"]} == channels.keys()
            return True

        await until_some(noted, "every failure is in the ledger")
        await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="cuts")
        await everything(harness, tocsin, *COMMANDS)
        assert await tocsin.stop() == 0
        clean("\n".join(tocsin.log), "log")


SOURCES = {
    "in_the_url": "postgresql://materialize:hushhush%2Fpass@127.0.0.1:{port}/materialize?sslmode=disable",
    "in_a_list_of_words": "host=127.0.0.1 port={port} user=materialize password='hushhush pass' sslmode=disable",
    "with_a_passfile": "postgresql://materialize@127.0.0.1:{port}/materialize?sslmode=disable&passfile=/hushhush/file",
}


async def test_promise_7_source_with_password(harness: Harness) -> None:
    """The password is wrong, then right; the server goes away, and the view fails."""
    harness.double.passwords["materialize"] = "another"
    sources = {kind: quick_source(dsn.format(port=harness.double.port)) for kind, dsn in SOURCES.items()}
    sources["with_a_passfile"]["password"] = "hushhush-separately"
    alert = harness.alert
    harness.config |= {"sources": sources, "alerts": {kind: {**alert, "source": kind} for kind in sources}}

    async def all_not_ready(tocsin: TocsinProcess, why: str) -> None:
        async def probe() -> bool:
            reasons = await tocsin.ready()
            assert reasons.count(why) >= len(sources), reasons
            return True

        await until_some(probe, why)

    async with harness.run() as tocsin:
        await all_not_ready(tocsin, "invalid password")
        await everything(harness, tocsin)
        harness.double.passwords.clear()
        await tocsin.until_ready()
        harness.orders.fail("division by zero")
        await all_not_ready(tocsin, "division by zero")
        harness.orders.heal()
        await tocsin.until_ready()
        await harness.double.kill()
        await all_not_ready(tocsin, "refused")
        await everything(harness, tocsin)


async def test_promise_7_secrets_from_files_and_environment(harness: Harness) -> None:
    (harness.directory / "password").write_text("hushhush-in-a-file\n")
    harness.double.passwords["materialize"] = "another"
    harness.source["dsn"] = "host=127.0.0.1 port=${PORT} user=${MZ_USER:-materialize} sslmode=disable"
    harness.source["password_file"] = str(harness.directory / "password")
    headers = {"Authorization": "Bearer ${TOKEN}", "X-Answer": "401 headers"}
    harness.config["channels"]["hook"] = quick_channel("${HOOK}", headers=headers)
    harness.receiver.otherwise = echo
    hook = f"{harness.receiver.url}/services/HUSHHUSH-token-0001"
    environment = {"PORT": str(harness.double.port), "HOOK": hook, "TOKEN": "hushhush-token-in-the-environment"}
    async with harness.run(**environment) as tocsin:
        await tocsin.until_not_ready("invalid password")
        for path in PAGES:
            clean((await tocsin.get(path))[1], path)
        harness.double.passwords.clear()
        await tocsin.until_metric("tocsin_channel_up", 0, channel="hook")
        file = str(tocsin.file)
        _, output, errors = await command(harness.directory, "check", "--show", "-c", file, **environment)
        clean(output + errors, "check --show")
        # Without them the configuration is wrong, and so are these.
        wrong = {"TOKEN": "hushhush\nhushhush", "PORT": "hushhush", "HOOK": "hushhush://hushhush:hushhush@"}
        ran = (command(harness.directory, "check", "-c", file, **{**environment, name: wrong[name]}) for name in wrong)
        for name, (status, output, errors) in zip(wrong, await asyncio.gather(*ran), strict=True):
            assert status != 0, name
            clean(output + errors, name)
        clean("\n".join(tocsin.log), "log")


BAD: tuple[dict[str, Any], ...] = (
    {"sources": {"mz": {"type": "materialize", "dsn": "postgresql://ann:hushhush-1@host:notaport/db"}}},
    {"sources": {"mz": {"type": "materialize", "dsn": "hushhush-2 is no dsn = at all"}}},
    {"sources": {"mz": {"type": "materialize", "dsn": ["hushhush-3"]}}},
    {"sources": {"mz": {"type": "materialize", "host": "h", "user": "u", "password": {"hushhush-4": "hushhush-4"}}}},
    {"sources": {"mz": {"type": "materialize", "host": "h", "user": "u", "password": 12, "passwort": "hushhush-5"}}},
    {"channels": {"hook": {"type": "webhook", "url": "ftp://hushhush-6@host/hushhush-6"}}},
    {"channels": {"hook": {"type": "webhook", "url": "http://h/", "headers": {"A": "hushhush-7\nhushhush-7"}}}},
    {"channels": {"hook": {"type": "webhook", "url": "http://h/", "headers": ["Authorization: hushhush-8"]}}},
    {"channels": {"hook": {"type": "webhook", "url": "http://h/", "url_file": "/hushhush-less/file", "method": "GET"}}},
    {"channels": {"hook": {"type": "novu", "api_key": {"a": "hushhush-9"}, "workflow": "w"}}},
)


def test_promise_7_mistake_in_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A message that repeats the value it is about would show the secret."""
    for change in BAD:
        file = write(tmp_path / "wrong.yaml", {"alerts": {"a": {"source": "mz", "relation": "v"}}, **change})
        assert main(["check", "-c", str(file)]) != 0, change
        output, errors = capsys.readouterr()
        shown = (output + errors).replace("/hushhush-less/file", "")  # the name of a file is no secret
        clean(shown.replace("passwort", ""), f"check of {change}")


async def test_promise_7_reload_with_mistakes(harness: Harness) -> None:
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        for count, change in enumerate((BAD[0], BAD[3], BAD[6]), 1):
            tocsin.write(harness.config | change)
            status, text = await tocsin.post("/-/reload")
            assert status == 500
            clean(text, "answer to a reload")
            tocsin.signal(signal.SIGHUP)
            await tocsin.until_logged("configuration refused", count=2 * count)
        clean("\n".join(tocsin.log), "log")


async def test_promise_7_novu_key(harness: Harness) -> None:
    """A Novu that refuses the key, and a server that repeats it."""

    def repeat(request: Received) -> Answer:
        return of_json(400, {"message": str(dict(request.headers)), "statusCode": 400})

    harness.receiver.otherwise = repeat
    async with fake_novu() as novu:
        settings = {"type": "novu", "api_key": "hushhush-api-key-0001", "workflow": "w", "recipients": ["sub-1"]}
        quick = {"backoff_initial": "20ms", "backoff_max": "100ms"}
        for name, url in (("refusing", novu.url), ("echoing", harness.receiver.url)):
            harness.config["channels"][name] = {**settings, **quick, "url": url}
        harness.alert["notify"] = ["refusing", "echoing"]
        async with harness.run() as tocsin:
            await tocsin.until_metric("tocsin_channel_up", 0, channel="refusing")
            await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="echoing")
            assert tocsin.logged("channel paused")
            await everything(harness, tocsin)


def test_search_finds_a_planted_secret() -> None:
    """Proves that the search can find a secret."""
    for text in ("a hushhush b", "HUSHHUSH", "%68ushhush", "a %68%75%73%68hush"):
        assert traces(text), text
    for before in ("", "a", "ab", "abc"):
        assert traces(base64.b64encode(f"{before}hushhush-pass".encode()).decode()), before
    assert not traces("nothing to see here")
