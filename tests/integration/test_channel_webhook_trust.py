"""Whom a webhook talks to, and how the receiver knows who talks: private addresses, redirects, signatures."""

import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from support.messages import message
from support.receiver import Answer, Receiver
from support.webhooks import Hooks, hooks, sent
from tocsin.channels.base import Delivered, Rejected, Retry
from tocsin.channels.webhook import addresses
from tocsin.errors import Reason

OLD, NEW = "whsec_" + "b2xk" * 8, "whsec_" + "bmV3" * 8


@pytest.fixture
async def hook() -> AsyncIterator[Hooks]:
    async with hooks() as made:
        yield made


def refused(result: Any) -> bool:
    return isinstance(result, Rejected) and "has a private address, which is refused" in result.detail


# Private addresses.


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]", "[::1]"])
async def test_a_private_address_is_refused_however_it_is_written(hook: Hooks, host: str) -> None:
    result = await hook.sent(url=f"http://{host}:{hook.receiver.port}/", allow_private=False)
    assert refused(result), result
    assert not hook.receiver.connections


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0"])
async def test_an_address_in_an_odd_spelling_is_not_tried_at_all(hook: Hooks, host: str) -> None:
    result = await hook.sent(url=f"http://{host}:{hook.receiver.port}/")
    assert isinstance(result, Rejected)
    assert result.detail.startswith("the address is not valid")


async def test_a_private_address_is_fine_where_the_configuration_alone_names_it(hook: Hooks) -> None:
    assert await hook.sent(url="/{{ labels.customer }}", body={"x": 1}) == Delivered()


async def test_a_host_out_of_a_row_is_not_private_unless_that_is_allowed(hook: Hooks) -> None:
    what = message(extra={"host": ("text", f"127.0.0.1:{hook.receiver.port}"), "whole": ("text", hook.receiver.url)})
    assert refused(await hook.sent(what, url="{{ row.whole }}/x"))
    assert refused(await hook.sent(message(), url=f"http://127.0.0.{{{{ value - 2 }}}}:{hook.receiver.port}/x"))
    assert not hook.receiver.connections
    assert await hook.sent(what, url="{{ row.whole }}/x", allow_private=True) == Delivered()


async def test_the_address_that_is_checked_is_the_one_that_is_connected_to(
    hook: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when it is looked up the first time and private the next (DNS rebinding)."""
    looked: list[str] = []
    plain = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "rebind.test":
            return plain(host, port, *rest, **more)
        looked.append(host)
        address = "203.0.114.1" if len(looked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert lookup("rebind.test", 80)[0][4][0] == "203.0.114.1"
    result = await hook.sent(url=f"http://rebind.test:{hook.receiver.port}/", allow_private=False)
    assert looked == ["rebind.test"] * 2
    assert refused(result)
    assert not hook.receiver.connections


async def test_a_name_with_private_addresses_only_is_refused_and_one_with_both_uses_the_public(
    hook: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ["127.0.0.2", "127.0.0.3"]
    plain = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "both.test":
            return plain(host, port, *rest, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(addresses, "public", lambda address: address == "127.0.0.1")
    url = f"http://both.test:{hook.receiver.port}/"
    assert refused(await hook.sent(url=url, allow_private=False))
    found.append("127.0.0.1")
    assert await hook.sent(url=url, allow_private=False) == Delivered()


# Redirects.


async def test_a_redirect_is_followed_with_method_body_and_key_where_that_is_asked_for(hook: Hooks) -> None:
    hook.receiver.script(
        Answer(status=308, headers={"Location": "/b"}), Answer(status=307, headers={"Location": "c?x=1"})
    )
    what = message()
    result = await hook.sent(
        what, url="/a", max_redirects=2, allow_private=True, method="PUT", headers={"X-Key": "k-0001"}
    )
    assert result == Delivered()
    assert [request.path for request in hook.receiver.requests] == ["/a", "/b", "/c?x=1"]
    for request in hook.receiver.requests:
        assert (request.method, request.json) == ("PUT", what.envelope)
        assert (request.headers["idempotency-key"], request.headers["x-key"]) == (what.id, "k-0001")


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirect_that_would_drop_the_body_is_not_followed(hook: Hooks, status: int) -> None:
    hook.receiver.script(Answer(status=status, headers={"Location": "/b"}))
    result = await hook.sent(max_redirects=5, allow_private=True)
    expected = f"{status}: the receiver redirects, which does not keep method and body, so it is not followed"
    assert result == Rejected(Reason.REJECTED, expected)
    assert len(hook.receiver.requests) == 1


async def test_redirects_in_a_circle_end(hook: Hooks) -> None:
    hook.receiver.otherwise = lambda _: Answer(status=307, headers={"Location": "/hook"})
    result = await hook.sent(max_redirects=3, allow_private=True)
    assert result == Rejected(Reason.REJECTED, "307: the receiver redirects, further than max_redirects allows")
    assert len(hook.receiver.requests) == 4


async def test_headers_do_not_follow_to_another_origin(hook: Hooks) -> None:
    async with Receiver() as other:
        hook.receiver.script(Answer(status=307, headers={"Location": f"{other.url}/b"}))
        what = message()
        result = await hook.sent(
            what, max_redirects=1, allow_private=True, headers={"Authorization": "Bearer abcdefgh"}
        )
        assert result == Delivered()
        [request] = other.requests
    assert "authorization" not in request.headers
    assert (request.headers["idempotency-key"], request.json) == (what.id, what.envelope)


@pytest.mark.parametrize("location", ["", "ftp://127.0.0.1/", "file:///etc/passwd", "http://h:99999/", "javascript:1"])
async def test_a_redirect_to_nowhere_is_refused(hook: Hooks, location: str) -> None:
    hook.receiver.script(Answer(status=307, headers={"Location": location}))
    result = await hook.sent(max_redirects=1, allow_private=True)
    assert result == Rejected(Reason.REJECTED, "307: the receiver redirects, to something that is no safe address")


async def test_a_redirect_does_not_lead_to_a_private_address(hook: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "public", lambda address: address == "127.0.0.1")
    for location in (f"http://127.0.0.2:{hook.receiver.port}/", "http://169.254.169.254/latest/meta-data"):
        hook.receiver.script(Answer(status=307, headers={"Location": location}))
        assert refused(await hook.sent(max_redirects=1)), location


async def test_all_redirects_together_have_the_time_of_one_attempt(hook: Hooks) -> None:
    hook.receiver.script(Answer(status=307, headers={"Location": "/b"}), Answer(hang=True))
    channel = hook.build(max_redirects=3, allow_private=True, timeout="200ms")
    session, given = channel._connected(), []
    plain = session.request

    def request(*arguments: Any, timeout: Any, **more: Any) -> Any:
        given.append(timeout.total)
        return plain(*arguments, timeout=timeout, **more)

    session.request = request  # type: ignore[method-assign, assignment]
    assert await sent(channel) == Retry(Reason.TIMEOUT, "no answer within 0.2 s")
    first, second = given
    assert second < first == 0.2


# Signatures.


async def test_a_signature_is_one_by_the_standard_and_binds_id_time_and_body(hook: Hooks) -> None:
    what = message(extra={"note": ("text", "é \N{SNOWMAN}")})
    await hook.sent(what, now=time.time(), signing_secret=NEW)
    [request] = hook.receiver.requests
    verifier = Verifier(NEW)
    headers = dict(request.headers)
    assert headers["webhook-id"] == headers["idempotency-key"] == what.id
    assert verifier.verify(request.body, headers) == what.envelope
    for changed in (
        {"webhook-id": "another"},
        {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)},
        {"webhook-signature": "v1," + "A" * 43 + "="},
    ):
        with pytest.raises(WebhookVerificationError):
            verifier.verify(request.body, {**headers, **changed})
    with pytest.raises(WebhookVerificationError):
        verifier.verify(request.body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(OLD).verify(request.body, headers)


async def test_during_a_rotation_both_secrets_sign(hook: Hooks, tmp_path: Any) -> None:
    file = tmp_path / "secrets"
    file.write_text(f"{NEW}\n{OLD}\n")
    await hook.sent(now=time.time(), signing_secret_file=str(file))
    [request] = hook.receiver.requests
    for secret in (NEW, OLD):
        assert Verifier(secret).verify(request.body, dict(request.headers))


async def test_a_repeat_has_the_same_id_and_the_time_of_its_own_attempt(hook: Hooks) -> None:
    hook.receiver.script(Answer(status=500))
    first, again = hook.build(now=1000.9, signing_secret=NEW), hook.build(now=2000.0, signing_secret=NEW)
    await sent(first)
    await sent(again)
    one, two = (request.headers for request in hook.receiver.requests)
    assert one["webhook-id"] == two["webhook-id"]
    assert (one["webhook-timestamp"], two["webhook-timestamp"]) == ("1000", "2000")
    assert one["webhook-signature"] != two["webhook-signature"]


async def test_batches_and_requests_without_a_body_are_signed_too(hook: Hooks) -> None:
    channel = hook.build(now=time.time(), signing_secret=NEW, batch="ndjson")
    await channel.send([message(key="1"), message(key="2")])
    await hook.sent(now=time.time(), signing_secret=NEW, method="GET")
    for request in hook.receiver.requests:
        Verifier(NEW).verify(request.body, dict(request.headers), json_parse=False)
