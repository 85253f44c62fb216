"""The output to Alertmanager, against real ones where there are any, and against a receiver that answers badly."""

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from support.alertmanager import ALERTMANAGER, Alertmanager, alertmanager
from support.channel_benches import SECRET
from support.messages import VIEW, message, transition
from support.prometheus import free_port
from support.receiver import Answer, Received, Receiver
from support.tocsin import command, write
from support.waiting import until, until_some
from tocsin.backoff import Backoff
from tocsin.channels import Delivered, Paused, Rejected, Result, Retry, Standing
from tocsin.channels import alertmanager as module
from tocsin.channels.alertmanager import Config, Options
from tocsin.dispatch import Condition
from tocsin.dispatch.level import LevelLoop, LevelPolicy
from tocsin.envelope import build
from tocsin.errors import ConfigError, Reason
from tocsin.exposition import Metrics
from tocsin.model import Transition

real = pytest.mark.skipif(ALERTMANAGER is None, reason="alertmanager is not on the PATH")
NOW = 1_795_242_600.0


def output(*urls: str, options: dict[str, Any] | None = None, **settings: Any) -> module.Alertmanager:
    config = Config.model_validate({"type": "alertmanager", "urls": urls, **settings})
    common = {name: getattr(config, name) for name in Options.model_fields}
    return module.build("am", config, {"late": Options(**{**common, **(options or {})})}, now=lambda: NOW)


def standing(key: str = "17", **options: Any) -> Standing:
    return output("http://x", options=options).standing(message(key=key).envelope, NOW)


def shown(one: Standing) -> dict[str, Any]:
    assert isinstance(one.content, bytes)
    found: dict[str, Any] = json.loads(one.content + b"}")
    return found


# What an alert looks like.


def test_an_alert_has_the_labels_and_annotations_of_the_envelope_and_those_that_are_set() -> None:
    one = standing(
        labels={"service": "orders", "order": "{{ row.order_id }}"},
        annotations={"runbook": "https://runbooks.example/{{ alert }}"},
        generator_url="https://orders.example/{{ row.customer }} é?q=a b",
    )
    assert shown(one) == {
        "labels": {"alertname": "late", "customer": "Ann", "order": "17", "service": "orders"},
        "annotations": {
            "summary": "Order 17 of Ann is late",
            "runbook": "https://runbooks.example/late",
        },
        "generatorURL": "https://orders.example/Ann%20%C3%A9?q=a+b",
    }
    assert one.started_at == 1_795_242_548.0


@pytest.mark.parametrize(
    ("alertname", "labels", "expected"),
    [
        (None, {}, "late"),
        (None, {"alertname": "Label"}, "Label"),
        ("Set", {"alertname": "Label"}, "Set"),
        ("{{ labels.customer }}Late", {}, "AnnLate"),
        ("{{ '' }}", {}, "late"),
        (
            "{{ row.nothing }}",
            {},
            "<error: late: alertname: line 1: there is no 'nothing' among order_id, customer, late_by>",
        ),
    ],
)
def test_an_alert_always_has_a_name(alertname: str | None, labels: dict[str, str], expected: str) -> None:
    what = message()
    what.envelope["labels"].update(labels)
    one = output("http://x", options={"alertname": alertname}).standing(what.envelope, NOW)
    assert shown(one)["labels"]["alertname"] == expected


def test_firings_with_the_same_labels_are_one_alert_and_an_empty_label_is_none() -> None:
    assert standing("1").identity == standing("2").identity
    assert (
        standing("1", labels={"key": "{{ row.order_id }}"}).identity
        != standing("2", labels={"key": "{{ row.order_id }}"}).identity
    )
    assert standing(labels={"empty": "{{ '' }}"}).identity == standing().identity


def test_names_become_what_every_alertmanager_takes() -> None:
    what = message()
    what.envelope["labels"] |= {"2nd-label": "x", "é": "y"}
    what.envelope["annotations"] |= {"a.b": "z"}
    found = shown(output("http://x").standing(what.envelope, NOW))
    assert {"_2nd_label", "_"} <= found["labels"].keys()
    assert "a_b" in found["annotations"]


@pytest.mark.parametrize(
    ("started_at", "expected"),
    [(1_795_242_548_000, 1_795_242_548.0), (int(NOW * 1000) + 60_000, NOW), (2**64 - 1, NOW), (0, 0.0)],
)
def test_what_began_in_the_future_by_our_clock_begins_now(started_at: int, expected: float) -> None:
    what = message(started_at=started_at, at=started_at)
    assert output("http://x").standing(what.envelope, NOW).started_at == expected


@pytest.mark.parametrize("url", ["nowhere", "ftp://x/y", "{{ row.nothing }}", "http://[::1", "", "/path"])
def test_what_is_no_address_is_left_out(url: str) -> None:
    assert "generatorURL" not in shown(standing(generator_url=url))


# The configuration.


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"urls": []}, "at least 1 item"),
        ({"urls": ["alertmanager:9093"]}, "write whole addresses"),
        ({"urls": ["http://a/?x=1"]}, "write whole addresses"),
        ({"urls": [f"http://me:{SECRET}@a"]}, "not in the address"),
        ({"urls": ["http://a", "http://a/"]}, "an address is given twice"),
        ({"username": "me"}, "username and password belong together"),
        ({"password": SECRET}, "username and password belong together"),
        ({"username": "a:b", "password": SECRET}, "must not have a colon"),
        ({"username": "me", "password": SECRET, "token": SECRET}, "not both"),
        ({"tls_key": "x"}, "tls_key is the key of tls_cert"),
        ({"expiry": "90s"}, "at least twice resend_interval"),
        ({"labels": {"a-b": "x"}}, "pattern"),
        ({"labels": {"a": "{{ nothing }}"}}, "there is no variable 'nothing'"),
        ({"when": "nothing > 1"}, "nothing"),
        ({"backoff_initial": "1m"}, "must not be less than backoff_initial"),
    ],
)
def test_a_mistake_is_told_without_the_secret(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as found:
        Config.model_validate({"type": "alertmanager", "urls": ["http://a"], **settings})
    assert why in str(found.value)
    assert SECRET not in str(found.value)


def test_certificates_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.am\.tls_ca: there is no file none\.pem"):
        output("https://a", tls_ca="none.pem")
    (tmp_path / "bad.pem").write_text("x")
    with pytest.raises(ConfigError, match=r"channels\.am: the certificates cannot be used: "):
        output("https://a", tls_ca=str(tmp_path / "bad.pem"))


# Requests and answers.


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


@asynccontextmanager
async def closing(made: module.Alertmanager) -> AsyncIterator[module.Alertmanager]:
    try:
        yield made
    finally:
        await made.close()


async def pushed(receiver: Receiver, *standings: Standing, **settings: Any) -> Sequence[Result]:
    async with closing(output(f"{receiver.url}/prefix/", **settings)) as made:
        return await made.push(made.receivers[0], standings, NOW)


async def test_a_firing_ends_after_the_expiry_and_what_has_ended_when_it_did(receiver: Receiver) -> None:
    ended = Standing(**{**_fields(standing("2")), "ended_at": NOW - 5.5})
    assert await pushed(receiver, standing("1"), ended, resend_interval="30s") == [Delivered()] * 2
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/prefix/api/v2/alerts")
    assert [(alert["startsAt"], alert["endsAt"]) for alert in request.json] == [
        ("2026-11-21T06:29:08.000Z", _moment(NOW + 120)),
        ("2026-11-21T06:29:08.000Z", _moment(NOW - 5.5)),
    ]


def _fields(of: Standing) -> dict[str, Any]:
    return {name: getattr(of, name) for name in Standing.__slots__}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def test_requests_are_bounded_by_alerts_and_by_bytes(receiver: Receiver) -> None:
    small = [standing(str(key)) for key in range(130)]
    large = [standing(str(key), annotations={"long": "x" * 600_000}) for key in range(3)]
    huge = standing("0", annotations={"long": "x" * 2_000_000})
    assert await pushed(receiver, *small, *large, huge) == [Delivered()] * 134
    assert [len(request.json) for request in receiver.requests] == [64, 64, 3, 1, 1, 1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=500), (Retry, Reason.SERVER_ERROR)),
        (Answer(status=503), (Retry, Reason.SERVER_ERROR)),
        (Answer(status=429, headers={"retry-after": "3"}), (Retry, Reason.RATE_LIMITED)),
        (Answer(hang=True), (Retry, Reason.TIMEOUT)),
        (Answer(cut=True), (Retry, Reason.CONNECTION)),
        (Answer(status=401), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=403), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=404), (Paused, Reason.NOT_FOUND)),
        (Answer(status=405), (Paused, Reason.REJECTED)),
        (Answer(status=302, headers={"location": f"/{SECRET}"}), (Paused, Reason.REJECTED)),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else value[0].__name__,
)
async def test_a_failure_that_is_the_receivers_ends_the_push(
    receiver: Receiver, answer: Answer, expected: tuple[type, Reason]
) -> None:
    receiver.otherwise = lambda _: answer
    results = await pushed(receiver, *[standing(str(key)) for key in range(200)], timeout="300ms")
    assert {(type(result), result.reason) for result in results if not isinstance(result, Delivered)} == {expected}
    assert (len(results), len(receiver.requests)) == (200, 1)
    assert SECRET not in repr(results)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_bad_alert_is_found_and_keeps_no_other_out(receiver: Receiver, status: int) -> None:
    taken = []

    def answer(request: Received) -> Answer:
        keys = [alert["labels"]["key"] for alert in request.json]
        if "13" in keys or "50" in keys:
            return Answer(status=status, body=b"no such thing")
        taken.extend(keys)
        return Answer()

    receiver.otherwise = answer
    results = await pushed(receiver, *[standing(str(key), labels={"key": "{{ row.order_id }}"}) for key in range(64)])
    assert [key for key, result in enumerate(results) if not isinstance(result, Delivered)] == [13, 50]
    assert sorted(map(int, taken)) == [key for key in range(64) if key not in (13, 50)]
    assert isinstance(results[13], Rejected)
    assert results[13].detail == f"{status} no such thing"
    assert len(receiver.requests) < 30


async def test_a_receiver_that_fails_while_a_bad_alert_is_looked_for_is_left_alone(receiver: Receiver) -> None:
    receiver.script(Answer(status=400), Answer(status=503))
    results = await pushed(receiver, *[standing(str(key)) for key in range(100)])
    assert [type(result) for result in results] == [Retry] * 100
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"username": "me", "password": SECRET}, "Basic "),
        ({"token": SECRET}, f"Bearer {SECRET}"),
    ],
)
async def test_credentials_are_sent_and_told_to_nobody(
    receiver: Receiver, settings: dict[str, Any], header: str
) -> None:
    receiver.otherwise = lambda request: Answer(status=401, body=request.headers["authorization"].encode())
    async with closing(output(receiver.url, **settings)) as made:
        results = await made.push(receiver.url, [standing()], NOW)
        sentences = await made.verify()
    sent = receiver.requests[0].headers["authorization"]
    assert sent.startswith(header)
    for told in (*results, *sentences, made):
        assert SECRET not in repr(told)
        assert sent.partition(" ")[2] not in repr(told)


async def test_verify_asks_each_how_it_does(receiver: Receiver) -> None:
    receiver.script(Answer(), Answer(status=404, body=b"nothing here"))
    async with closing(output(receiver.url, f"{receiver.url}/x")) as made:
        assert await made.verify() == [f"{receiver.url}/x does not answer as an Alertmanager: 404 nothing here"]
    assert [request.path for request in receiver.requests] == ["/api/v2/status", "/x/api/v2/status"]


async def test_check_online_asks_alertmanager(tmp_path: Path, receiver: Receiver) -> None:
    receiver.script(Answer(status=404, body=b"nothing here"))
    config = {
        "sources": {"shop": {"type": "postgres", "dsn": f"postgresql://x@127.0.0.1:{free_port()}/x"}},
        "channels": {"am": {"type": "alertmanager", "urls": [receiver.url]}},
        "alerts": {"late": {"source": "shop", "relation": "late", "labels": ["customer"], "notify": ["am"]}},
    }
    file = write(tmp_path / "tocsin.yaml", config)
    status, _, errors = await command(tmp_path, "check", "--online", "--config", str(file))
    assert status == 1
    assert f"channels.am: {receiver.url} does not answer as an Alertmanager: 404 nothing here" in errors


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on the PATH")
async def test_certificates_are_checked_and_our_own_is_shown(tmp_path: Path) -> None:
    def certificate(name: str) -> str:
        made = tmp_path / f"{name}.pem"
        arguments = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}")
        files = ("-keyout", f"{made}.key", "-out", str(made), "-addext", "subjectAltName=IP:127.0.0.1")
        subprocess.run(("openssl", *arguments, *files), check=True, capture_output=True)
        return str(made)

    server, client = await asyncio.to_thread(certificate, "server"), await asyncio.to_thread(certificate, "client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client)
    context.load_cert_chain(server, f"{server}.key")
    context.verify_mode = ssl.CERT_REQUIRED

    async def handle(_request: web.BaseRequest) -> web.Response:
        return web.Response()

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    ours: dict[str, Any] = {"tls_cert": client, "tls_key": f"{client}.key"}
    for settings, expected in (({"tls_ca": server, **ours}, Delivered), (ours, Retry), ({"tls_ca": server}, Retry)):
        async with closing(output(url, **settings)) as made:
            [result] = await made.push(url, [standing()], NOW)
            assert isinstance(result, expected), result
    await runner.cleanup()


# A real Alertmanager, and the loop that keeps it up to date.


class Bell:
    """A loop whose firings a test sets, and Alertmanagers that send on what they are told to a receiver."""

    def __init__(self, folder: Path, people: Receiver) -> None:
        self.folder = folder
        self.people = people
        self.firing: list[Transition] = []
        self.file = folder / "alertmanager.yml"
        hook = f"{{url: '{people.url}', send_resolved: true}}"
        self.file.write_text(
            "route: {receiver: people, group_by: ['...'], group_wait: 0s, group_interval: 100ms, repeat_interval: 1h}\n"
            f"receivers: [{{name: people, webhook_configs: [{hook}]}}]\n"
        )

    def server(self, name: str = "one", port: int | None = None) -> Any:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return alertmanager(folder, self.file, port=port)

    @asynccontextmanager
    async def loop(self, *urls: str, resend: float = 60.0, **settings: Any) -> AsyncIterator[LevelLoop]:
        config = Config.model_validate({"type": "alertmanager", "urls": urls, **settings})
        made = LevelLoop(
            "am",
            module.build("am", config, {"late": config}),
            LevelPolicy(resend=resend, backoff=Backoff(initial=0.05, maximum=0.2), limit=10_000, debounce=0.01),
            current=lambda: {"late": list(self.firing)},
            shape=lambda one: build(one, "0" * 32, VIEW),
            metrics=Metrics("0").channel("am"),
        )
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def fires(self, loop: LevelLoop, *keys: str) -> None:
        at = int(time.time() * 1000) - 5000
        self.firing = [transition(key=key, started_at=at, at=at) for key in keys]
        loop.changed("late")

    def told(self) -> list[tuple[str, str]]:
        """What people were told: status and name of each alert, in order."""
        return [
            (alert["status"], alert["labels"]["alertname"])
            for request in self.people.requests
            for alert in request.json["alerts"]
        ]


KEYED: dict[str, Any] = {"alertname": "Late{{ row.order_id }}"}


@pytest.fixture
async def bell(tmp_path: Path) -> AsyncIterator[Bell]:
    async with Receiver() as people:
        yield Bell(tmp_path, people)


def knows(server: Alertmanager, *names: str) -> Callable[[], Awaitable[bool]]:
    """Whether exactly these fire there."""

    async def look() -> bool:
        assert sorted(await server.alerts()) == sorted(names)
        return True

    return look


@real
async def test_what_fires_reaches_people_and_so_does_its_end(bell: Bell) -> None:
    async with bell.server() as server, bell.loop(server.url, **KEYED, labels={"team": "ops"}) as loop:
        bell.fires(loop, "1", "2")
        await until_some(knows(server, "Late1", "Late2"))
        alert = (await server.alerts())["Late1"]
        assert alert["labels"] == {"alertname": "Late1", "customer": "Ann", "team": "ops"}
        assert alert["annotations"] == {"summary": "Order 1 of Ann is late"}
        started, ends = (datetime.fromisoformat(alert[name]).timestamp() for name in ("startsAt", "endsAt"))
        assert started == pytest.approx(time.time() - 5, abs=4)
        assert ends == pytest.approx(time.time() + 240, abs=20)
        await until(lambda: len(bell.told()) == 2)
        bell.fires(loop, "2")
        await until_some(knows(server, "Late2"))
        await until(lambda: ("resolved", "Late1") in bell.told())
    assert sorted(bell.told()) == [("firing", "Late1"), ("firing", "Late2"), ("resolved", "Late1")]


@real
async def test_an_alertmanager_that_restarts_knows_everything_again(bell: Bell) -> None:
    port = free_port()
    async with bell.loop(f"http://127.0.0.1:{port}", **KEYED, resend=0.5) as loop:
        async with bell.server(port=port) as server:
            bell.fires(loop, "1", "2")
            await until_some(knows(server, "Late1", "Late2"))
        await until(lambda: loop.condition is Condition.FAILING)
        bell.fires(loop, "2", "3")
        async with bell.server(port=port) as server:
            await until_some(knows(server, "Late2", "Late3"))
            await until(lambda: (loop.condition, loop.message, loop.pending) == (Condition.UP, "", 0))


@real
async def test_an_alertmanager_that_is_down_delays_no_other_and_gets_everything_when_it_is_back(bell: Bell) -> None:
    port = free_port()
    down = f"http://127.0.0.1:{port}"
    async with bell.server() as up, bell.loop(down, up.url, **KEYED) as loop:
        bell.fires(loop, "1")
        await until_some(knows(up, "Late1"))
        bell.fires(loop, "2", "3")
        await until_some(knows(up, "Late2", "Late3"))
        assert loop.condition is Condition.FAILING
        assert loop.message.startswith(f"{down}: connection: ")
        async with bell.server("two", port) as server:
            await until_some(knows(server, "Late2", "Late3"))
            await until(lambda: loop.condition is Condition.UP)


@real
async def test_what_nobody_tells_any_more_ends_by_itself(bell: Bell) -> None:
    async with bell.server() as server:
        async with bell.loop(server.url, **KEYED, resend_interval="1s", expiry="2s", resend=0.5) as loop:
            bell.fires(loop, "1")
            await until_some(knows(server, "Late1"))
            until_now = datetime.fromisoformat((await server.alerts())["Late1"]["endsAt"])

            async def later() -> bool:
                return datetime.fromisoformat((await server.alerts())["Late1"]["endsAt"]) > until_now

            await until_some(later)
        await until_some(knows(server))
        await until(lambda: bell.told() == [("firing", "Late1"), ("resolved", "Late1")])


@real
async def test_after_a_clean_restart_of_ours_what_fires_is_told_at_once_and_nobody_hears_of_it(bell: Bell) -> None:
    async with bell.server() as server:
        async with bell.loop(server.url, **KEYED) as loop:
            bell.fires(loop, "1", "2")
            await until_some(knows(server, "Late1", "Late2"))
            bell.firing = bell.firing[:1]
            await loop.settled()
        before = (await server.alerts())["Late1"]["updatedAt"]
        async with bell.loop(server.url, **KEYED):

            async def again() -> bool:
                return bool((await server.alerts())["Late1"]["updatedAt"] > before)

            await until_some(again)
        await until(lambda: len(bell.told()) == 3)
        assert sorted(bell.told()) == [("firing", "Late1"), ("firing", "Late2"), ("resolved", "Late2")]


@real
async def test_a_thousand_firings_arrive_whole(bell: Bell) -> None:
    async with bell.server() as server, bell.loop(server.url, **KEYED) as loop:
        bell.fires(loop, *map(str, range(1000)))
        await until_some(knows(server, *[f"Late{key}" for key in range(1000)]))
        assert loop.failed == 0


@real
async def test_an_alertmanager_takes_whatever_a_row_holds(bell: Bell) -> None:
    texts = [
        "\0",
        "a\nb\r\x1b[2J\x7f\x85",
        "\ud800",
        "\N{GRINNING FACE}\ufffe\U0010ffff",
        '{"}<&\\',
        "x" * 300_000,
        " ",
    ]
    names = ["a-b", "0", "é", "__name__", "a b", "", "x" * 300]
    async with bell.server() as server, closing(output(server.url)) as made:
        standings = []
        for number, (text, name) in enumerate([(text, name) for text in texts for name in names]):
            what = message(started_at=2**64 - 1 if number % 2 else 0)
            what.envelope["labels"] |= {"number": str(number), name: text}
            what.envelope["annotations"] |= {name: text, "text": text}
            generator = f"http://example.com/{text[:50]}"
            shaped = output("http://x", options={"generator_url": "{{ row.url }}"})
            what.envelope["row"]["url"] = generator
            standings.append(shaped.standing(what.envelope, NOW))
        results = await made.push(server.url, standings, time.time())
        assert [result for result in results if not isinstance(result, Delivered)] == []
        assert await made.verify() == []
