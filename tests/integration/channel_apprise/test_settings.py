"""The settings of the apprise channel, and that no secret leaks."""

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from support.apprise import DISCORD, NO_ANSWER, SECRET, SMS, TELEGRAM, aimed, at, ended
from support.messages import message
from support.receiver import Answer, Receiver
from support.sending import Build, sent
from tocsin.channels import apprise as kind
from tocsin.channels.base import Delivered, Retry
from tocsin.errors import ConfigError

# Secrets.


@pytest.mark.parametrize(
    ("url", "answer", "path", "says"),
    [
        (DISCORD, Answer(status=204), f"/Discord/{'1' * 18}/{SECRET}_abc", "Order 17 of Ann is late"),
        (
            f"slack://T1JJ3T3L2/A1BRTD4JD/{'b' * 24}/#room",
            Answer(body=b"ok"),
            f"/Slack/T1JJ3T3L2/A1BRTD4JD/{'b' * 24}",
            '"channel": "#room"',
        ),
        (TELEGRAM, Answer(body=b'{"ok": true}'), f"/Telegram123456789:{'a' * 35}/sendMessage", "12345"),
        (SMS, Answer(status=201, body=b"{}"), f"/AC{'a' * 32}", "To=%2B15551231111"),
    ],
    ids=["discord", "slack", "telegram", "sms"],
)
async def test_known_service_gets_its_request_without_leaking_secrets(
    build: Build, receiver: Receiver, printed: io.StringIO, url: str, answer: Answer, path: str, says: str
) -> None:
    receiver.script(answer, Answer(status=401, body=url.encode()))
    channel = aimed(build(url), receiver)
    assert await sent(channel) == Delivered()
    [request] = receiver.requests
    assert request.path == path
    assert says in request.body.decode()
    failed = await sent(channel, message(key="18"))
    assert isinstance(failed, Retry)
    assert failed.detail
    secrets = [part for part in url.replace("@", "/").replace("://", "/").split("/") if len(part) > 15]
    assert not [name for name in ("apprise", "requests", "urllib3") if name in printed.getvalue()]
    shown = repr((failed, channel)) + printed.getvalue()
    assert not [part for part in secrets if part in shown]


async def test_secret_in_connection_error_is_redacted(build: Build) -> None:
    async with Receiver() as gone:
        url = f"json://user:{SECRET}@127.0.0.1:{gone.port}/{SECRET}/x?-token={SECRET}"
    result = await sent(build(url))
    assert isinstance(result, Retry)
    assert SECRET not in repr(result)


@pytest.mark.parametrize("url", [f"slack://TSECRET42/A1BRTD4JD/{'b' * 24}/#room", f"json://x/{SECRET}"])
async def test_exception_of_a_service_is_redacted(build: Build, url: str) -> None:
    def breaks(**_: Any) -> bool:
        raise RuntimeError(f"no {url} and no {SECRET}")

    channel = build(url)
    channel._services[url]._plugin.notify = breaks
    failed = await sent(channel)
    assert isinstance(failed, Retry)
    assert "RuntimeError: no <secret>" in failed.detail
    assert not [part for part in url.partition("://")[2].split("/") if len(part) > 8 and part in failed.detail]


async def test_logs_of_other_users_of_a_library_pass(build: Build, slow: Receiver, printed: io.StringIO) -> None:
    """Those of Apprise do not, whatever thread they are from."""
    channel = build(at(slow, SECRET), timeout="300ms")
    assert await sent(channel) == NO_ANSWER
    logging.getLogger("urllib3.connectionpool").debug("of another part")
    logging.getLogger("apprise").warning("of a thread that a service has made")
    slow.release()
    await ended(channel)
    assert printed.getvalue() == "urllib3.connectionpool: of another part\n"


async def test_reason_is_known_at_log_level_error(build: Build, receiver: Receiver) -> None:
    """The library only logs it, as a warning."""
    receiver.otherwise = lambda _: Answer(status=503)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        failed = await sent(build(at(receiver, "b")))
    finally:
        root.setLevel(level)
    assert isinstance(failed, Retry)
    assert "503" in failed.detail


# The configuration.


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("slakc://{{ row.x }}", "Apprise knows no service slakc://; did you mean slack://?"),
        ("qwertyuiop://x", "Apprise knows no service qwertyuiop://"),
        ("syslog://x", "syslog:// acts on this machine only"),
        ("file:///etc/passwd", "acts on this machine"),
        (f"discord://{SECRET}", "Apprise cannot use this discord URL"),
        (f"https://example.com/{SECRET}", "Apprise cannot use this https URL"),
    ],
)
def test_unusable_url_is_refused_at_start_without_secret(
    build: Build, url: str, complaint: str, printed: io.StringIO
) -> None:
    with pytest.raises(ConfigError) as caught:
        build("json://127.0.0.1", url)
    [problem] = [problem for problem in caught.value.problems if problem.path == "channels.chat"]
    assert problem.message.startswith("urls[1]: ")
    assert complaint in problem.message
    assert SECRET not in str(caught.value) + printed.getvalue()


def test_webhook_address_of_a_service_is_accepted(build: Build) -> None:
    channel = build(f"https://discord.com/api/webhooks/{'1' * 18}/{'a' * 60}")
    assert [service.name for service in channel._services.values()] == ["Discord"]


@pytest.mark.parametrize("url", ["slack", "json://x\n", "json://{{ rw }}", ""])
def test_invalid_url_is_refused_with_its_index(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.Config.model_validate({"type": "apprise", "urls": ["json://x", url]})
    assert "[1]" in str(caught.value)


def test_urls_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text(f"# the team\njson://127.0.0.1/{SECRET}\n\nform://127.0.0.1\n")
    config = kind.Config.model_validate({"type": "apprise", "urls_file": str(tmp_path / "urls")})
    assert [url.get_secret_value() for url in config.urls] == [f"json://127.0.0.1/{SECRET}", "form://127.0.0.1"]
    assert SECRET not in repr(config)
    assert config.missing() is None
    assert kind.Options().missing() == "set urls"
