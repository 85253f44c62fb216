"""Requests of the output to Alertmanager, and how it handles answers."""

import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from support.alertmanager_output import NOW, active, closing, output
from support.channel_ends import SECRET
from support.messages import message
from support.receiver import Answer, Received, Receiver, of_json
from tocsin.channels.base import ActiveAlert, Delivered, Paused, Rejected, Result, Retry
from tocsin.errors import ConfigError, Reason


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as made:
        yield made


async def pushed(receiver: Receiver, *alerts: ActiveAlert, **settings: Any) -> Sequence[Result]:
    async with closing(output(f"{receiver.url}/prefix/", **settings)) as made:
        return await made.push(made.receivers[0], alerts, NOW)


async def test_end_is_expiry_or_when_it_ended(receiver: Receiver) -> None:
    ended = replace(active("2"), ended_at=NOW - 5.5)
    assert await pushed(receiver, active("1"), ended, resend_interval="30s") == [Delivered()] * 2
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/prefix/api/v2/alerts")
    assert [(alert["startsAt"], alert["endsAt"]) for alert in request.json] == [
        ("2026-11-21T06:29:08.000Z", _moment(NOW + 120)),
        ("2026-11-21T06:29:08.000Z", _moment(NOW - 5.5)),
    ]


async def test_preview_is_what_the_receiver_gets(receiver: Receiver) -> None:
    what = message(extra={"note": ("text", f"it is {SECRET}")})
    async with closing(output(receiver.url, token=SECRET, options={"annotations": {"note": "row {{ row }}"}})) as made:
        preview = made.preview(what)
        await made.push(receiver.url, [made.active(what.envelope, NOW)], NOW)
    [request] = receiver.requests
    assert preview == {
        "method": request.method,
        "urls": [f"{receiver.url}{request.path}"],
        "headers": {"Content-Type": request.headers["content-type"], "Authorization": "<secret>"},
        "body": json.loads(request.body.replace(SECRET.encode(), b"<secret>")),
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def test_nothing_starts_or_ends_in_the_future(receiver: Receiver) -> None:
    firing = replace(active("1"), started_at=NOW + 3600)
    ended = replace(active("2"), started_at=NOW + 3600, ended_at=NOW + 3605)
    await pushed(receiver, firing, ended, resend_interval="30s")
    assert [(alert["startsAt"], alert["endsAt"]) for alert in receiver.requests[0].json] == [
        (_moment(NOW), _moment(NOW + 120)),
        (_moment(NOW), _moment(NOW)),
    ]


async def test_requests_are_limited_by_alerts_and_bytes(receiver: Receiver) -> None:
    small = [active(str(key)) for key in range(130)]
    large = [active(str(key), annotations={"long": "x" * 600_000}) for key in range(3)]
    huge = active("0", annotations={"long": "x" * 2_000_000})
    assert await pushed(receiver, *small, *large, huge) == [Delivered()] * 134
    assert [len(request.json) for request in receiver.requests] == [64, 64, 3, 1, 1, 1]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=500), (Retry, Reason.SERVER_ERROR)),
        (Answer(hang=True), (Retry, Reason.TIMEOUT)),
        (Answer(status=401), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=404), (Paused, Reason.NOT_FOUND)),
        (Answer(status=302, headers={"location": f"/{SECRET}"}), (Paused, Reason.REJECTED)),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else value[0].__name__,
)
async def test_failure_of_the_receiver_ends_the_push(
    receiver: Receiver, answer: Answer, expected: tuple[type, Reason]
) -> None:
    receiver.otherwise = lambda _: answer
    results = await pushed(
        receiver, *[active(str(key)) for key in range(200)], timeout="300ms" if answer.hang else "20s"
    )
    assert {(type(result), result.reason) for result in results if not isinstance(result, Delivered)} == {expected}
    assert (len(results), len(receiver.requests)) == (200, 1)
    assert SECRET not in repr(results)


@pytest.mark.parametrize(
    "answer",
    [Answer(status=401), Answer(status=404), Answer(cut=True), Answer(body=b"<html>"), Answer(body=b'[{"a": 1}]')],
)
async def test_receiver_that_does_not_list_alerts_says_nothing(receiver: Receiver, answer: Answer) -> None:
    receiver.script(answer)
    async with closing(output(receiver.url)) as made:
        assert await made.known(receiver.url) is None
        receiver.script(of_json(200, [{"labels": {"b": "2", "alertname": "x"}}]))
        assert await made.known(receiver.url) == {'{"alertname":"x","b":"2"}'}


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_bad_alert_is_isolated(receiver: Receiver, status: int) -> None:
    taken = []

    def answer(request: Received) -> Answer:
        keys = [alert["labels"]["key"] for alert in request.json]
        if "13" in keys or "50" in keys:
            return Answer(status=status, body=b"no such thing")
        taken.extend(keys)
        return Answer()

    receiver.otherwise = answer
    results = await pushed(receiver, *[active(str(key), labels={"key": "{{ row.order_id }}"}) for key in range(64)])
    assert [key for key, result in enumerate(results) if not isinstance(result, Delivered)] == [13, 50]
    assert sorted(map(int, taken)) == [key for key in range(64) if key not in (13, 50)]
    assert isinstance(results[13], Rejected)
    assert results[13].detail == f"{status} no such thing"
    assert len(receiver.requests) < 30


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"username": "me", "password": SECRET}, "Basic "),
        ({"token": SECRET}, f"Bearer {SECRET}"),
    ],
)
async def test_credentials_are_sent_and_shown_nowhere(
    receiver: Receiver, settings: dict[str, Any], header: str
) -> None:
    receiver.otherwise = lambda request: Answer(status=401, body=request.headers["authorization"].encode())
    async with closing(output(receiver.url, **settings)) as made:
        results = await made.push(receiver.url, [active()], NOW)
        sentences = await made.verify()
    assert sentences[0].startswith(f"{receiver.url} does not answer as an Alertmanager: 401")
    assert [request.path for request in receiver.requests] == ["/api/v2/alerts", "/api/v2/status"]
    sent = receiver.requests[0].headers["authorization"]
    assert sent.startswith(header)
    for shown in (*results, *sentences, made):
        assert SECRET not in repr(shown)
        assert sent.partition(" ")[2] not in repr(shown)


def test_key_with_password_is_refused_without_a_prompt(tmp_path: Path) -> None:
    client = trustme.CA().issue_cert("client.example")
    key = serialization.load_pem_private_key(client.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(SECRET.encode()),
    )
    file = tmp_path / "client.pem"
    file.write_bytes(locked + client.cert_chain_pems[0].bytes())
    with pytest.raises(ConfigError, match="without a password"):
        output("https://127.0.0.1", tls_cert=str(file))


async def test_server_and_client_certificates_are_checked(tmp_path: Path) -> None:
    authority, others = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("127.0.0.1").configure_cert(context)
    others.configure_trust(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    others.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")

    async def handle(_request: web.BaseRequest) -> web.Response:
        return web.Response()

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    trust: dict[str, Any] = {"tls_ca": str(tmp_path / "ca.pem")}
    ours: dict[str, Any] = {"tls_cert": str(tmp_path / "client.pem")}
    for settings, expected in (({**trust, **ours}, Delivered), (ours, Retry), (trust, Retry)):
        async with closing(output(url, **settings)) as made:
            [result] = await made.push(url, [active()], NOW)
            assert isinstance(result, expected), result
            if settings == ours:
                assert "the server's certificate is not valid" in str(result)
    await runner.cleanup()
