"""Private addresses and signatures of webhooks."""

import socket
import time
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from support.messages import message
from support.receiver import Answer
from support.sending import sent
from support.webhooks import Hooks
from tocsin.channels import addresses
from tocsin.channels.base import Delivered, Rejected

OLD, NEW = "whsec_" + "b2xk" * 8, "whsec_" + "bmV3" * 8


def refused(result: Any) -> bool:
    return isinstance(result, Rejected) and "has a private address, which is refused" in result.detail


# Private addresses.


@pytest.mark.parametrize("host", ["localhost", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_private_address_is_refused_in_every_spelling(hook: Hooks, host: str) -> None:
    result = await hook.sent(url=f"http://{host}:{hook.receiver.port}/", allow_private=False)
    assert refused(result), result
    assert not hook.receiver.connections


async def test_private_host_from_row_must_be_allowed(hook: Hooks) -> None:
    """A host that the configuration alone names may be private."""
    what = message(extra={"whole": ("text", hook.receiver.url)})
    assert refused(await hook.sent(what, url="{{ row.whole }}/x"))
    assert refused(await hook.sent(message(), url=f"http://127.0.0.{{{{ value - 2 }}}}:{hook.receiver.port}/x"))
    assert not hook.receiver.connections
    assert await hook.sent(what, url="{{ row.whole }}/x", allow_private=True) == Delivered()
    assert await hook.sent(url="/{{ labels.customer }}", body={"x": 1}) == Delivered()


async def test_checked_address_is_the_connected_one(hook: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public at the first lookup and private at the next (DNS rebinding)."""
    lookups: list[str] = []
    plain = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "rebind.test":
            return plain(host, port, *rest, **more)
        lookups.append(host)
        address = "203.0.114.1" if len(lookups) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert lookup("rebind.test", 80)[0][4][0] == "203.0.114.1"
    assert refused(await hook.sent(url=f"http://rebind.test:{hook.receiver.port}/", allow_private=False))
    assert lookups == ["rebind.test"] * 2
    assert not hook.receiver.connections


async def test_name_with_mixed_addresses_uses_the_public(hook: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
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


# Signatures.


async def test_signature_binds_id_time_and_body(hook: Hooks) -> None:
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


async def test_signature_has_no_local_time(hook: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference library signs a time without zone, such as a local one, as if it were UTC."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        await hook.sent(message(), signing_secret=NEW, now=time.time())
        [request] = hook.receiver.requests
        Verifier(NEW).verify(request.body, dict(request.headers))
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 300
    time.tzset()


async def test_both_secrets_sign_during_a_rotation(hook: Hooks, tmp_path: Any) -> None:
    """Batches and requests without a body too."""
    file = tmp_path / "secrets"
    file.write_text(f"{NEW}\n{OLD}\n")
    settings: dict[str, Any] = {"now": time.time(), "signing_secret_file": str(file)}
    await hook.build(**settings, batch="ndjson").send([message(key="1"), message(key="2")])
    await hook.sent(**settings, method="GET")
    for request in hook.receiver.requests:
        for secret in (NEW, OLD):
            Verifier(secret).verify(request.body, dict(request.headers), json_parse=False)


async def test_repeat_is_signed_with_its_own_time(hook: Hooks) -> None:
    hook.receiver.script(Answer(status=500))
    for now in (1000.9, 2000.0):
        await sent(hook.build(now=now, signing_secret=NEW))
    one, two = (request.headers for request in hook.receiver.requests)
    assert one["webhook-id"] == two["webhook-id"]
    assert (one["webhook-timestamp"], two["webhook-timestamp"]) == ("1000", "2000")
