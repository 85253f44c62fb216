"""The apprise channel: what it sends to whom, the result of each URL, and that no secret leaks. Real services of the
library, pointed at a receiver on this machine."""

import asyncio
import io
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import structlog.testing
from pydantic import ValidationError

from support.messages import message
from support.receiver import Answer, Received, Receiver
from support.sending import Build, closing, sent
from support.waiting import until
from tocsin.channels import apprise as kind
from tocsin.channels.apprise.services import Service
from tocsin.channels.base import Delivered, Message, Rejected, Retry
from tocsin.envelope import merged
from tocsin.errors import ConfigError, Reason
from tocsin.model import Kind

SECRET = "S3CR3T-and-quite-long"
DISCORD = f"discord://{'1' * 18}/{SECRET}_abc"
TELEGRAM = f"tgram://123456789:{'a' * 35}/12345"
SMS = f"twilio://AC{'a' * 32}:{'b' * 32}@15551230000/15551231111"
NO_ANSWER = Retry(Reason.TIMEOUT, "no answer within 0.3 s")
HUNG = Retry(Reason.TIMEOUT, "no free slot within 0.3 s", 5.0, free=True)


def chat(*urls: str, **settings: Any) -> Any:
    """A channel of the alert `late`; `own`: options of the alert over its own."""
    own = settings.pop("own", {})
    config = kind.Config.model_validate({"type": "apprise", "urls": list(urls), **settings})
    common = {key: settings[key] for key in ("title", "body", "format") if key in settings}
    return kind.build("chat", config, {"late": kind.Options.model_validate({**common, "urls": list(urls), **own})})


def at(receiver: Receiver, path: str = "", schema: str = "json") -> str:
    """The URL of a service at the receiver."""
    return f"{schema}://127.0.0.1:{receiver.port}/{path}"


def paths(receiver: Receiver) -> list[str]:
    return [request.path for request in receiver.requests]


def aimed(channel: Any, receiver: Receiver) -> Any:
    """The channel, with the address of its known service replaced by that of the receiver."""
    [service] = channel._services.values()
    service._plugin.notify_url = f"{receiver.url}/{service.name}"
    service._plugin.webhook_url = f"{receiver.url}/Slack"
    service._plugin.notify_sms_url = receiver.url + "/{sid}"
    return channel


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as server:
        yield server


@pytest.fixture
async def slow(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """A receiver that answers when it is released; services wait longer for it than the attempts do."""
    monkeypatch.setattr("tocsin.channels.apprise.channel.Service", lambda url, _: Service(url, 20.0))
    async with Receiver(lambda _: Answer(hang=True)) as server:
        yield server


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    async with closing(chat) as build:
        yield build


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """The log of the program at level debug, without the lines of the receiver."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    handler.addFilter(lambda record: record.name not in ("aiohttp.access", "asyncio"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


# What is sent.


async def test_service_gets_title_and_severity_of_each_kind(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver))
    for each in Kind:
        assert await sent(channel, message(each)) == Delivered()
    assert {(request.json["title"].partition(":")[0], request.json["type"]) for request in receiver.requests} == {
        ("Fired", "failure"),
        ("Changed", "warning"),
        ("Still firing", "failure"),
        ("Resolved", "success"),
        ("Event", "info"),
    }
    assert receiver.requests[0].json["message"].startswith("customer Ann, value 3\n")


async def test_configured_title_and_body_are_templates(build: Build, receiver: Receiver) -> None:
    url = at(receiver, schema="form")
    await sent(build(url, title="{{ alert }}\n!", body="{{ row.order_id }} for {{ labels.customer }}"))
    form = parse_qs(receiver.requests[0].body.decode())
    assert (form["title"], form["message"]) == (["late !"], ["17 for Ann"])


async def test_html_body_is_escaped_or_converted_to_text(build: Build, receiver: Receiver) -> None:
    both = (at(receiver, "?format=text"), at(receiver, "?format=html"))
    await sent(build(*both, format="html", body="<b>{{ row.note }}</b>"), message(extra={"note": ("text", "a < b")}))
    assert {request.json["message"] for request in receiver.requests} == {"a < b", "<b>a &lt; b</b>"}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("html", "<b>5 &lt;u&gt;6&lt;/u&gt; &amp; *7*</b>\r\n<i>8</i>"),
        ("markdown", "*5 \\<u\\>6\\</u\\> & \\*7\\**\n\\<i\\>8\\</i\\>"),
        ("text", "<b>5 &lt;u&gt;6&lt;/u&gt; &amp; *7*</b>\r\n&lt;i&gt;8&lt;/i&gt;"),
    ],
)
async def test_title_merged_into_the_body_is_escaped(build: Build, receiver: Receiver, form: str, text: str) -> None:
    receiver.script(Answer(body=b'{"ok": true}'), Answer(status=201, body=b"{}"))
    title = "5 <u>6</u> & *7*"
    telegram = build(f"{TELEGRAM}?mdv=v2", title=title, body="<i>8</i>", format=form)
    assert await sent(aimed(telegram, receiver)) == Delivered()
    assert receiver.requests[0].json["text"] == text
    await sent(aimed(build(SMS, title=title, body="8", format=form), receiver))
    assert parse_qs(receiver.requests[1].body.decode())["Body"] == ["5 <u>6</u> & *7*\r\n8"]


async def test_title_takes_the_place_of_an_empty_body(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "?format=html"), title="a<b", body="{{ '' }}", format="html"))
    assert receiver.requests[0].json["message"] == "a&lt;b"


async def test_digest_lists_its_notifications(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=str(number)).envelope for number in range(12)]
    await sent(build(at(receiver)), replace(message(), envelope=merged(envelopes)))
    [request] = receiver.requests
    assert request.json["title"] == "late: 12 notifications (12 fired)"
    assert "Fired: Order 9 of Ann is late\nand 2 more" in request.json["message"]


# Recipients.


async def test_urls_of_alert_override_those_of_channel(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "channel"), own={"urls": [at(receiver, "alert")]}))
    assert paths(receiver) == ["/alert"]


async def test_row_value_stays_one_segment_of_url(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "sms/{{ row.phone }}")), message(extra={"phone": ("text", "+49 1/../2?a=b&c#d")}))
    assert paths(receiver) == ["/sms/+49%201%2F..%2F2%3Fa=b&c%23d"]


async def test_row_without_recipient_becomes_a_dead_letter(build: Build, receiver: Receiver) -> None:
    result = await sent(build(at(receiver, "{{ row.phone }}")), message(extra={"phone": ("text", None)}))
    assert result == Rejected(Reason.NO_RECIPIENTS, "late: urls[0]: an expression prints nothing")
    assert not receiver.requests


async def test_each_url_of_a_row_is_sent_once(build: Build, receiver: Receiver) -> None:
    """One without a value is left out."""
    channel = build(at(receiver, "{{ row.who }}"), at(receiver, "{{ row.phone }}"), at(receiver, "room"))
    assert await sent(channel, message(extra={"who": ("text", "room"), "phone": ("text", None)})) == Delivered()
    assert paths(receiver) == ["/room"]


async def test_digest_goes_to_recipients_of_all_its_notifications(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=who, extra={"who": ("text", who)}).envelope for who in ("ann", "bob", "ann")]
    await sent(build(at(receiver, "{{ row.who }}")), replace(message(), envelope=merged(envelopes)))
    assert sorted(paths(receiver)) == ["/ann", "/bob"]


async def test_missing_column_of_the_row_is_named(build: Build, receiver: Receiver) -> None:
    result = await sent(build(at(receiver, "{{ row.phne }}")))
    assert isinstance(result, Rejected)
    assert (result.reason, "'phne'" in result.detail) == (Reason.TEMPLATE, True)


# Results.


async def test_only_the_failed_service_is_retried(build: Build, receiver: Receiver) -> None:
    failing = True
    receiver.otherwise = lambda request: Answer(status=503 if failing and request.path == "/b" else 200)
    channel = build(at(receiver, "a"), at(receiver, "b"), at(receiver, "c"))
    for _ in range(2):
        result = await sent(channel)
        assert isinstance(result, Retry)
        assert result.reason is Reason.SERVER_ERROR
        assert result.detail.startswith("2 of 3 have it; JSON: ")
        assert "503" in result.detail
    failing = False
    assert await sent(channel) == Delivered()
    assert sorted(paths(receiver)) == ["/a", "/b", "/b", "/b", "/c"]
    assert await sent(channel, message(key="18")) == Delivered()
    assert len(receiver.requests) == 8


async def test_silent_service_delays_no_other(build: Build, receiver: Receiver) -> None:
    receiver.otherwise = lambda request: Answer(hang=request.path == "/slow")
    result = await sent(build(at(receiver, "slow"), at(receiver, "fast"), timeout="1s"))
    assert result == Retry(Reason.TIMEOUT, "1 of 2 have it; no answer within 1 s")
    assert paths(receiver).count("/fast") == 1


async def test_messages_to_one_url_are_sent_sequentially(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver), concurrency=8)
    results = await channel.send([message(key=str(number)) for number in range(20)])
    assert results == [Delivered()] * 20
    titles = [request.json["title"] for request in receiver.requests]
    assert titles == [f"Fired: Order {number} of Ann is late" for number in range(20)]


async def test_refused_url_of_a_row_is_noted_and_logged(
    build: Build, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the library ends the process."""

    def ends(*_: Any, **__: Any) -> None:
        raise SystemExit(f"no {SECRET}")

    channel = build("json://{{ row.who }}/" + SECRET, at(receiver), concurrency=1)
    monkeypatch.setattr("apprise.Apprise.instantiate", ends)
    refused = "Apprise cannot use this json URL: no <secret>"
    with structlog.testing.capture_logs() as logs:
        for who in ("ann", "bob"):
            result = await sent(channel, message(key=who, extra={"who": ("text", who)}))
            assert result == Delivered(f"refused: {refused}")
    assert [(line["event"], line["answer"]) for line in logs] == [("recipient refused", refused)] * 2
    assert len(receiver.requests) == 2


# Sends that hang.


async def ended(channel: Any) -> None:
    await until(lambda: not channel._sends._tasks, "the threads end")


async def test_late_success_after_timeout_is_not_sent_again(build: Build, slow: Receiver) -> None:
    channel = build(at(slow), timeout="300ms")
    assert await sent(channel) == NO_ANSWER
    assert await sent(channel) == HUNG
    slow.release()
    await ended(channel)
    assert await sent(channel) == Delivered()
    assert paths(slow) == ["/"]


@pytest.mark.parametrize("path", ["room", "{{ row.room }}"], ids=["given", "of a row"])
async def test_sends_to_one_url_never_overlap_after_timeout(build: Build, slow: Receiver, path: str) -> None:
    channel = build(at(slow, path), timeout="300ms")
    room = {"room": ("text", "room")}
    first, second = message(extra=room), message(key="18", extra=room)
    assert await channel.send([first, second]) == [NO_ANSWER, HUNG]
    assert await sent(channel, second) == HUNG
    assert paths(slow) == ["/room"]
    slow.release()
    await ended(channel)
    assert await channel.send([first, second]) == [Delivered()] * 2
    assert paths(slow) == ["/room"] * 2


async def test_cancelled_attempt_does_not_repeat_what_arrived(build: Build, slow: Receiver, receiver: Receiver) -> None:
    """Its URL stays busy until the send ends, and what arrived before or after the end of the attempt counts."""
    channel = build(at(receiver), at(slow), timeout="1s")
    attempt = asyncio.create_task(sent(channel))
    await until(lambda: slow.requests and channel._settled._results, "one has answered, the other has the request")
    attempt.cancel()
    await asyncio.wait({attempt})
    assert await sent(channel) == Retry(Reason.TIMEOUT, "1 of 2 have it; no free slot within 1 s", 5.0, free=True)
    slow.release()
    await ended(channel)
    assert await sent(channel) == Delivered()
    assert (paths(receiver), paths(slow), channel._settled._results) == (["/"], ["/"], {})


async def test_hanging_sends_are_limited_by_concurrency(build: Build, slow: Receiver, receiver: Receiver) -> None:
    channel = build(at(slow, "{{ row.who }}"), at(receiver), timeout="1s", concurrency=2)

    def to(who: str) -> Message:
        return message(key=who, extra={"who": ("text", who)})

    no_answer = Retry(Reason.TIMEOUT, "1 of 2 have it; no answer within 1 s")
    assert await channel.send([to("ann"), to("bob")]) == [no_answer] * 2
    threads = threading.active_count()
    full = Retry(Reason.TIMEOUT, "1 of 2 have it; no free slot within 1 s", 5.0, free=True)
    assert await channel.send([to("cy"), to("dan")]) == [full] * 2
    assert (sorted(paths(slow)), len(receiver.requests), threading.active_count()) == (["/ann", "/bob"], 4, threads)
    slow.release()
    await ended(channel)
    assert await channel.send([to("ann"), to("bob"), to("cy")]) == [Delivered()] * 3
    assert sorted(paths(slow)) == ["/ann", "/bob", "/cy"]


async def test_hanging_send_blocks_neither_close_nor_exit(build: Build, slow: Receiver) -> None:
    channel = build(at(slow), timeout="300ms")
    await sent(channel)
    await channel.close()
    assert {thread.daemon for thread in threading.enumerate() if thread.name.startswith("tocsin-chat")} == {True}


# Unexpected behaviour of the library.


@pytest.mark.parametrize(("status", "options"), [(302, ""), (302, "?redirect=yes"), (307, "")])
async def test_redirect_to_a_login_page_delivers_nothing(
    build: Build, receiver: Receiver, status: int, options: str
) -> None:
    """Followed, the message becomes an empty GET, and the page's 200 success; the URL may even ask for it."""

    def answer(request: Received) -> Answer:
        return Answer(status=200 if request.path == "/login" else status, headers={"location": "/login"})

    receiver.otherwise = answer
    result = await sent(build(at(receiver, options)))
    assert isinstance(result, Retry)
    assert paths(receiver) == ["/"]


async def test_failed_optional_service_is_retried(build: Build, receiver: Receiver) -> None:
    """The library would report success, and repeat the request by itself."""
    receiver.script(Answer(status=429, headers={"retry-after": "1"}))
    channel = build(at(receiver, "?optional=yes&retry=3&wait=0"))
    assert isinstance(await sent(channel), Retry)
    assert len(receiver.requests) == 1
    assert await sent(channel) == Delivered()


def test_rate_limit_pauses_of_services_are_off(build: Build) -> None:
    channel = build(TELEGRAM, f"slack://T1JJ3T3L2/A1BRTD4JD/{'b' * 24}/#room")
    assert [service._plugin.request_rate_per_sec for service in channel._services.values()] == [0, 0]


@pytest.mark.parametrize(("options", "length"), [("", 2000), ("?overflow=upstream", 6000)])
async def test_text_is_truncated_to_service_limit(build: Build, receiver: Receiver, options: str, length: int) -> None:
    """Discord refuses more than 2,000 characters."""
    receiver.otherwise = lambda request: Answer(status=204 if len(request.json["content"]) <= 2000 else 400)
    channel = aimed(build(DISCORD + options, title="{{ '' }}", body="x" * 6000), receiver)
    assert isinstance(await sent(channel), Delivered if length == 2000 else Retry)
    assert {len(request.json["content"]) for request in receiver.requests} == {length}


async def test_pieces_of_split_text_keep_their_order(build: Build, receiver: Receiver) -> None:
    """The library would send the third piece though the second failed."""
    channel = build(at(receiver, "?overflow=split"), body="a" * 30_000 + "b" * 30_000 + "c" * 30_000)
    receiver.script(Answer(), Answer(status=500))
    assert isinstance(await sent(channel), Retry)
    assert await sent(channel) == Delivered()
    texts = [request.json["message"] for request in receiver.requests]
    assert texts[:2] == texts[2:4]
    assert "".join(texts[2:]).replace(" ", "") == "a" * 30_000 + "b" * 30_000 + "c" * 30_000


def test_mail_password_in_clear_text_is_refused(build: Build) -> None:
    """The library uses no TLS with mailto://, even where the server offers it."""
    with pytest.raises(ConfigError, match=r"urls\[0\]: mailto:// would send the password in clear text") as caught:
        build(f"mailto://me:{SECRET}@mail.example.com:25")
    assert SECRET not in str(caught.value)


async def test_password_in_templated_url_is_never_sent_unencrypted(build: Build) -> None:
    """A templated URL is checked when it is rendered."""
    channel = build(f"mailto://me:{SECRET}@{{{{ row.host }}}}")
    result = await sent(channel, message(extra={"host": ("text", "mail.example.com")}))
    assert isinstance(result, Rejected)
    assert result.detail.startswith("refused: mailto:// would send the password in clear text")


@pytest.mark.parametrize(
    "url",
    [
        f"mailtos://me:{SECRET}@mail.example.com",
        f"mailto://me:{SECRET}@gmail.com",
        f"mailto://me:{SECRET}@mail.example.com?mode=starttls",
        "mailto://relay.example.com?from=a@example.com&to=b@example.com",
    ],
)
def test_mail_with_tls_or_without_password_is_accepted(build: Build, url: str) -> None:
    """Providers that the library knows get TLS by themselves."""
    assert [service.name for service in build(url)._services.values()] == ["E-Mail"]


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
