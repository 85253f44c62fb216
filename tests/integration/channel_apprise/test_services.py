"""The apprise channel: the services it accepts, what they get, and that no secret of theirs leaks."""

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from support.apprise import SECRET, at
from support.messages import message
from support.receiver import Answer, Received, Receiver
from support.sending import Build, sent, without
from support.waiting import until
from tocsin.channels import apprise as channel_apprise
from tocsin.channels.apprise.services import Service
from tocsin.channels.base import Delivered, Retry
from tocsin.errors import ConfigError, Reason
from tocsin.model import Kind


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """The log of the program at level debug, without the lines of the receiver."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    handler.addFilter(lambda record: record.name != "aiohttp.access")
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


# Real services of the library, with their address replaced by that of the receiver.


async def _discord(channel: Any, receiver: Receiver) -> None:
    [service] = channel._services.values()
    service._plugin.notify_url = f"{receiver.url}/api/webhooks"


async def _slack(channel: Any, receiver: Receiver) -> None:
    [service] = channel._services.values()
    service._plugin.webhook_url = f"{receiver.url}/services"


async def _telegram(channel: Any, receiver: Receiver) -> None:
    [service] = channel._services.values()
    service._plugin.notify_url = f"{receiver.url}/bot"


async def _twilio(channel: Any, receiver: Receiver) -> None:
    [service] = channel._services.values()
    service._plugin.notify_sms_url = receiver.url + "/2010-04-01/Accounts/{sid}/Messages.json"


def _says(request: Received) -> str:
    return request.body.decode()


@pytest.mark.parametrize(
    ("url", "turn", "answer", "path", "says"),
    [
        (
            f"discord://{'1' * 18}/{SECRET}_abc",
            _discord,
            Answer(status=204),
            f"/api/webhooks/{'1' * 18}/{SECRET}_abc",
            "Order 17 of Ann is late",
        ),
        (
            f"slack://T1JJ3T3L2/A1BRTD4JD/{'b' * 24}/#room",
            _slack,
            Answer(body=b"ok"),
            f"/services/T1JJ3T3L2/A1BRTD4JD/{'b' * 24}",
            '"channel": "#room"',
        ),
        (
            f"tgram://123456789:{'a' * 35}/12345",
            _telegram,
            Answer(body=b'{"ok": true}'),
            f"/bot123456789:{'a' * 35}/sendMessage",
            "12345",
        ),
        (
            f"twilio://AC{'a' * 32}:{'b' * 32}@15551230000/15551231111",
            _twilio,
            Answer(status=201, body=b"{}"),
            f"/2010-04-01/Accounts/AC{'a' * 32}/Messages.json",
            "To=%2B15551231111",
        ),
    ],
    ids=["discord", "slack", "telegram", "sms"],
)
async def test_known_service_gets_its_request_without_leaking_secrets(
    build: Build,
    receiver: Receiver,
    printed: io.StringIO,
    url: str,
    turn: Callable[[Any, Receiver], Any],
    answer: Answer,
    path: str,
    says: str,
) -> None:
    receiver.script(answer, Answer(status=401, body=url.encode()))
    channel = build(url)
    await turn(channel, receiver)
    assert await sent(channel) == Delivered()
    [request] = receiver.requests
    assert request.path == path
    assert says in _says(request)
    failed = await sent(channel, message(key="18"))
    assert isinstance(failed, Retry)
    assert failed.detail
    secrets = [part for part in url.replace("@", "/").replace("://", "/").split("/") if len(part) > 15]
    assert not [name for name in ("apprise", "requests", "urllib3") if name in printed.getvalue()]
    shown = repr((failed, channel)) + printed.getvalue()
    assert not [part for part in secrets if part in shown]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("html", "<b>5 &lt;u&gt;6&lt;/u&gt; &amp; *7*</b>\r\n<i>8</i>"),
        ("markdown", "*5 \\<u\\>6\\</u\\> & \\*7\\**\n\\<i\\>8\\</i\\>"),
        ("text", "<b>5 &lt;u&gt;6&lt;/u&gt; &amp; *7*</b>\r\n&lt;i&gt;8&lt;/i&gt;"),
    ],
)
async def test_title_merged_into_the_body_is_escaped(build: Build, receiver: Receiver, form: str, text: str) -> None:
    receiver.script(Answer(body=b'{"ok": true}'))
    body = "<i>8</i>"
    channel = build(f"tgram://123456789:{'a' * 35}/12345?mdv=v2", title="5 <u>6</u> & *7*", body=body, format=form)
    await _telegram(channel, receiver)
    assert await sent(channel) == Delivered()
    assert receiver.requests[0].json["text"] == text


@pytest.mark.parametrize("form", ["html", "markdown", "text"])
async def test_title_in_plain_text_is_unchanged(build: Build, receiver: Receiver, form: str) -> None:
    receiver.script(Answer(status=201, body=b"{}"))
    url = f"twilio://AC{'a' * 32}:{'b' * 32}@15551230000/15551231111"
    channel = build(url, title="5 <u>6</u> & *7*", body="8", format=form)
    await _twilio(channel, receiver)
    assert await sent(channel) == Delivered()
    assert parse_qs(_says(receiver.requests[0]))["Body"] == ["5 <u>6</u> & *7*\r\n8"]


async def test_title_in_place_of_empty_body_is_escaped(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "?format=html"), title="a<b", body="{{ '' }}", format="html"))
    assert receiver.requests[0].json["message"] == "a&lt;b"


async def test_secret_in_connection_error_is_redacted(build: Build, receiver: Receiver) -> None:
    async with Receiver() as gone:
        url = f"json://user:{SECRET}@127.0.0.1:{gone.port}/{SECRET}/x?-token={SECRET}"
    result = await sent(build(url))
    assert isinstance(result, Retry)
    assert SECRET not in repr(result)


@pytest.mark.parametrize("url", [f"slack://TSECRET42/A1BRTD4JD/{'b' * 24}/#room", f"json://x/{SECRET}"])
async def test_exception_of_a_service_is_redacted(url: str) -> None:
    def breaks(**_: Any) -> bool:
        raise RuntimeError(f"no {url} and no {SECRET}")

    service = Service(url, 1.0)
    cast("Any", service._plugin).notify = breaks
    failed = service.send("title", "body", Kind.FIRED, "text")
    assert failed is not None
    assert "RuntimeError: no <secret>" in failed
    assert not [part for part in url.partition("://")[2].split("/") if len(part) > 8 and part in failed]


async def test_service_that_raises_system_exit_is_refused(
    build: Build, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: Any, **__: Any) -> None:
        raise SystemExit(f"no {SECRET}")

    channel = build("json://{{ row.who }}/" + SECRET, at(receiver), concurrency=1)
    monkeypatch.setattr("apprise.Apprise.instantiate", ends)
    for who in ("ann", "bob"):
        refused = "refused: Apprise cannot use this json URL: no <secret>"
        assert await sent(channel, message(key=who, extra={"who": ("text", who)})) == Delivered(refused)
    assert len(receiver.requests) == 2


# Logs of the libraries.


def _loggers() -> dict[str, Any]:
    """The state of the libraries' loggers."""
    loggers = [logging.getLogger(name) for name in ("apprise", "requests", "urllib3")]
    return {each.name: (each.propagate, each.level, list(each.handlers)) for each in loggers}


async def test_hanging_send_silences_only_its_own_logs(
    build: Build, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log lines of other threads pass while it hangs, and all lines afterwards."""
    monkeypatch.setattr("tocsin.channels.apprise.channel.Service", lambda url, _: Service(url, 20.0))
    await until(lambda: logging.getLogger("apprise").propagate, "the sends of other tests end")
    before = _loggers()
    async with Receiver(lambda _: Answer(hang=True)) as receiver:
        channel = build(at(receiver, SECRET), timeout="300ms")
        assert _loggers() == before
        assert await sent(channel) == Retry(Reason.TIMEOUT, "no answer within 0.3 s")
        assert _loggers() != before
        logging.getLogger("urllib3.connectionpool").debug("of another part")
        logging.getLogger("apprise").warning("of a thread that a service has made")
        await channel.close()
    # Its connections are cut, which the service logs.
    await until(lambda: _loggers() == before, "the thread ends")
    said = [line for line in printed.getvalue().splitlines() if not line.startswith("asyncio: ")]
    assert said == ["urllib3.connectionpool: of another part"]
    logging.getLogger("apprise").warning("afterwards")
    assert printed.getvalue().endswith("\napprise: afterwards\n")


# The configuration.


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("slakc://a/b/c", "Apprise knows no service slakc://; did you mean slack://?"),
        ("qwertyuiop://x", "Apprise knows no service qwertyuiop://"),
        ("syslog://x", "syslog:// acts on this machine only"),
        ("dbus://x", "acts on this machine"),
        ("file:///etc/passwd", "acts on this machine"),
        ("exec://rm", "acts on this machine"),
        ("slakc://{{ row.x }}", "did you mean slack://?"),
        (f"discord://{SECRET}", "Apprise cannot use this discord URL"),
        (f"tgram://{SECRET}/x", "Apprise cannot use this tgram URL"),
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


@pytest.mark.parametrize("urls", [["slack"], ["no url"], ["json://x\n"], ["json://{{ rw }}"], [""]])
def test_invalid_url_is_refused_with_its_index(urls: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        channel_apprise.Config.model_validate({"type": "apprise", "urls": ["json://x", *urls]})
    assert "[1]" in str(caught.value)


def test_urls_can_come_from_a_file(tmp_path: Any) -> None:
    (tmp_path / "urls").write_text(f"# the team\njson://127.0.0.1/{SECRET}\n\nform://127.0.0.1\n")
    config = channel_apprise.Config.model_validate({"type": "apprise", "urls_file": str(tmp_path / "urls")})
    assert [url.get_secret_value() for url in config.urls] == [f"json://127.0.0.1/{SECRET}", "form://127.0.0.1"]
    assert SECRET not in repr(config)
    assert config.missing() is None
    assert channel_apprise.Options().missing() == "set urls"


def test_missing_library_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "apprise", *(f"tocsin.channels.apprise.{name}" for name in ("channel", "services")))
    config = channel_apprise.Config.model_validate({"type": "apprise", "urls": ["json://x"]})
    with pytest.raises(ConfigError, match=r"install it with: pip install 'tocsin\[apprise\]'"):
        channel_apprise.build("chat", config, {})
