"""Promise 7: no secret anywhere. Unmistakable ones stand in every place that takes one, everything that can fail is
made to fail by servers that repeat what they were sent, and then every word that came out is searched."""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from support.novu import fake_novu
from support.receiver import Answer, Received, Receiver
from support.tocsin import Harness, TocsinProcess, command, new_harness, quick_channel, quick_source, write
from support.waiting import until, until_some

pytestmark = pytest.mark.e2e

MARK = "hushhush"
"""Part of every secret; looked for in capitals too, and in what encodings make of it."""

PAGES = (
    "/",
    "/metrics",
    "/readyz",
    "/healthz",
    "/api/v1/status",
    "/api/v1/alerts",
    "/api/v1/channels",
    "/api/v1/firing",
    "/api/v1/notifications",
    "/api/v1/dead-letters",
    "/api/v1/notifications/nonesuch",
    "/static/page.js",
    "/nonesuch",
)


COMMANDS = ("check --show", "check --online", "outbox list", "outbox list --json")


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
    """What the mark always is in base64 when it begins after so many bytes (modulo 3)."""
    encoded = base64.b64encode(b"x" * shift + MARK.encode()).decode()
    return encoded[-(-8 * shift // 6) : 8 * (shift + len(MARK)) // 6]


def clean(text: str, where: str) -> None:
    assert not traces(text), f"{where}: {traces(text)[:3]}"


async def everything(harness: Harness, tocsin: TocsinProcess, *commands: str) -> None:
    """Search all that the process says and keeps, and what these commands print about it."""
    for path in PAGES:
        status, text = await tocsin.get(path)
        assert status in (200, 404, 503), path
        clean(text, path)
    clean("\n".join(tocsin.log), "log")
    clean("\n".join(tocsin.output), "standard output")
    for file in harness.directory.glob("ledger.db*"):
        clean(file.read_bytes().decode("latin-1"), file.name)
    ran = (command(harness.directory, *line.split(), "-c", str(tocsin.file)) for line in commands)
    for line, (_, output, errors) in zip(commands, await asyncio.gather(*ran), strict=True):
        assert "Traceback" not in errors, errors
        clean(output + errors, line)


def repeating(status: int, *, address: bool = False) -> Any:
    """A receiver that fails and repeats the request's headers, or its address, as careless servers do."""

    def answer(request: Received) -> Answer:
        headers = {name: text for name, text in request.headers.items() if name in SECRET_HEADERS}
        words = f"{request.path} {unquote(request.path)}" if address else f"{json.dumps(headers)} {headers}"
        return Answer(status=status, body=words.encode(), headers={"location": request.path})

    return answer


SECRET_HEADERS = ("authorization", "authorization-too", "x-api-key")


def secret_hook(receiver: Receiver, **more: Any) -> dict[str, Any]:
    """A webhook with a secret in its user-info, path, query and headers."""
    host = receiver.url.removeprefix("http://")
    return quick_channel(
        f"http://hushhush-user:hushhush-pass@{host}/services/HUSHHUSH-token-0001?key=hushhush%2Fkey-0001&v=1",
        headers={"Authorization-Too": "Bearer hushhush-bearer-0001", "X-Api-Key": 'hushhush:key\\with"quotes'},
        **more,
    )


@pytest.mark.parametrize("address", [False, True])
@pytest.mark.parametrize("status", [400, 401, 500, 302])
async def test_promise_7_receiver_that_echoes_secrets(harness: Harness, status: int, address: bool) -> None:
    """Catches an answer, an address or a header that goes into a log, the ledger or the API as it came."""
    harness.receiver.otherwise = repeating(status, address=address)
    harness.config["channels"]["hook"] = secret_hook(harness.receiver, max_attempts=2)
    async with harness.run() as tocsin:
        await harness.receiver.arrived(1)
        await tocsin.until_ready()

        async def noted() -> bool:
            [one] = (await tocsin.json("/api/v1/notifications"))["notifications"]
            return bool(one["reason"])

        await until_some(noted, "the failure is in the ledger")
        await everything(harness, tocsin, *(COMMANDS if status == 400 else ()))
        assert await tocsin.stop() == 0
        clean("\n".join(tocsin.log), "log")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid", "127.0.0.1:{port}"])
async def test_promise_7_unreachable_receiver(harness: Harness, address: str) -> None:
    """Refused, not to be resolved, and one that cuts the connection."""
    harness.receiver.otherwise = lambda _: Answer(cut=True)
    host = address.format(port=harness.receiver.port)
    url = f"http://hushhush-user:hushhush-pass@{host}/services/HUSHHUSH-token-0001?key=hushhush%2Fkey-0001"
    harness.config["channels"]["hook"] = quick_channel(url, max_attempts=3)
    async with harness.run() as tocsin:
        await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="hook")
        [dead] = (await tocsin.json("/api/v1/dead-letters"))["notifications"]
        assert dead["reason"] == "exhausted"
        await everything(harness, tocsin)


async def test_promise_7_server_without_tls(harness: Harness) -> None:
    url = f"https://hushhush-user:hushhush-pass@127.0.0.1:{harness.receiver.port}/services/HUSHHUSH-token-0001"
    harness.config["channels"]["hook"] = quick_channel(url, max_attempts=2)
    async with harness.run() as tocsin:
        await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="hook")
        await everything(harness, tocsin)


SOURCES = {
    "in the URL": "postgresql://materialize:hushhush%2Fpass@127.0.0.1:{port}/materialize?sslmode=disable",
    "in a list of words": "host=127.0.0.1 port={port} user=materialize password='hushhush pass' sslmode=disable",
    "with a passfile": "postgresql://materialize@127.0.0.1:{port}/materialize?sslmode=disable&passfile=/hushhush/file",
}


@pytest.mark.parametrize("kind", SOURCES)
async def test_promise_7_source_with_password(harness: Harness, kind: str) -> None:
    """The password is wrong, then right; the server goes away, and the view fails."""
    harness.double.passwords["materialize"] = "another"
    harness.config["sources"]["mz"] = quick_source(SOURCES[kind].format(port=harness.double.port))
    if kind == "with a passfile":
        harness.source["password"] = "hushhush-separately"
    async with harness.run() as tocsin:
        await tocsin.until_not_ready("invalid password")
        await everything(harness, tocsin)
        harness.double.passwords.clear()
        await tocsin.until_ready()
        harness.orders.fail("division by zero")
        await tocsin.until_not_ready("division by zero")
        harness.orders.heal()
        await tocsin.until_ready()
        await harness.double.kill()
        await tocsin.until_not_ready("refused")
        await everything(harness, tocsin)


async def test_promise_7_secrets_from_files_and_environment(harness: Harness) -> None:
    (harness.directory / "password").write_text("hushhush-in-a-file\n")
    harness.double.passwords["materialize"] = "another"
    harness.source["dsn"] = "host=127.0.0.1 port=${PORT} user=${MZ_USER:-materialize} sslmode=disable"
    harness.source["password_file"] = str(harness.directory / "password")
    harness.config["channels"]["hook"] = quick_channel("${HOOK}", headers={"Authorization": "Bearer ${TOKEN}"})
    harness.receiver.otherwise = repeating(401)
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


@pytest.mark.parametrize("number", range(len(BAD)))
async def test_promise_7_mistake_in_configuration(harness: Harness, number: int) -> None:
    """A message that repeats the value it is about would show the secret; checked at a start and at a reload."""
    wrong = harness.config | BAD[number]
    status, output, errors = await command(
        harness.directory, "check", "-c", str(write(harness.directory / "wrong.yaml", wrong))
    )
    assert status != 0, output
    assert "Traceback" not in errors
    shown = (output + errors).replace("/hushhush-less/file", "")  # the name of a file is no secret
    clean(shown.replace("passwort", ""), "check")


async def test_promise_7_reload_with_mistakes(harness: Harness) -> None:
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        for count, change in enumerate((BAD[0], BAD[3], BAD[6]), 1):
            tocsin.write(harness.config | change)
            status, text = await tocsin.post("/-/reload")
            assert status == 500
            clean(text, "answer to a reload")
            tocsin.signal(signal.SIGHUP)
            await until(lambda wanted=2 * count: len(tocsin.logged("configuration refused")) >= wanted)  # type: ignore[misc]
        clean("\n".join(tocsin.log), "log")


async def test_promise_7_novu_key(harness: Harness) -> None:
    """With the real kind of channel: refused, then with a server that fails."""
    async with fake_novu() as novu:
        harness.config["channels"]["hook"] = {
            "type": "novu",
            "api_key": "hushhush-api-key-0001",
            "url": novu.url,
            "workflow": "inapp-alert",
            "recipients": ["sub-1"],
            "backoff_initial": "20ms",
            "backoff_max": "100ms",
        }
        async with harness.run() as tocsin:
            await tocsin.until_metric("tocsin_channel_up", 0, channel="hook")
            assert tocsin.logged("channel paused")
            await everything(harness, tocsin)


async def test_promise_7_novu_that_echoes_the_key(harness: Harness) -> None:
    async def handle(request: web.BaseRequest) -> web.Response:
        return web.json_response({"message": str(dict(request.headers)), "statusCode": 400}, status=400)

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        harness.config["channels"]["hook"] = {
            "type": "novu",
            "api_key": "hushhush-api-key-0001",
            "url": f"http://127.0.0.1:{runner.addresses[0][1]}",
            "workflow": "inapp-alert",
            "recipients": ["sub-1"],
        }
        async with harness.run() as tocsin:
            await tocsin.until_metric("tocsin_channel_dead_letters", 1, channel="hook")
            await everything(harness, tocsin)
    finally:
        await runner.cleanup()


def test_search_finds_a_planted_secret() -> None:
    """A search that finds nothing proves nothing."""
    for text in ("a hushhush b", "HUSHHUSH", "%68ushhush", "a %68%75%73%68hush"):
        assert traces(text), text
    for before in ("", "a", "ab", "abc"):
        assert traces(base64.b64encode(f"{before}hushhush-pass".encode()).decode()), before
    assert not traces("nothing to see here")
