"""The apprise channel: real services of the library, pointed at a receiver on this machine."""

import asyncio
import io
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from pydantic import ValidationError

from support.messages import message
from support.receiver import Answer, Received, Receiver
from support.waiting import until
from tocsin.channels import Delivered, Message, Rejected, Result, Retry
from tocsin.channels import apprise as channel_apprise
from tocsin.channels.apprise.services import Service
from tocsin.envelope import merged
from tocsin.errors import ConfigError, Reason
from tocsin.model import Kind

SECRET = "S3CR3T-and-quite-long"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as server:
        yield server


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """What the program's log would hold at its most talkative, less what the receiver says."""
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


Build = Callable[..., Any]


@pytest.fixture
async def build() -> AsyncIterator[Build]:
    made: list[Any] = []

    def make(*urls: str, **settings: Any) -> Any:
        own = settings.pop("own", {})
        config = channel_apprise.Config.model_validate({"type": "apprise", "urls": list(urls), **settings})
        options = channel_apprise.Options.model_validate(
            {
                **{key: settings[key] for key in ("title", "body", "format") if key in settings},
                "urls": list(urls),
                **own,
            }
        )
        made.append(channel_apprise.build("chat", config, {"late": options}))
        return made[-1]

    yield make
    for channel in made:
        await channel.close()


async def sent(channel: Any, what: Message | None = None) -> Result:
    [result] = await channel.send([what or message()])
    return result  # type: ignore[no-any-return]


def at(receiver: Receiver, path: str = "", schema: str = "json") -> str:
    return f"{schema}://127.0.0.1:{receiver.port}/{path}"


def paths(receiver: Receiver) -> list[str]:
    return [request.path for request in receiver.requests]


# What is sent.


@pytest.mark.parametrize(
    ("kind", "title", "type_"),
    [
        (Kind.FIRED, "Fired: Order 17 of Ann is late", "failure"),
        (Kind.UPDATED, "Changed: Order 17 of Ann is late", "warning"),
        (Kind.REPEATED, "Still firing: Order 17 of Ann is late", "failure"),
        (Kind.RESOLVED, "Resolved: Order 17 of Ann is late", "success"),
        (Kind.EVENT, "Event: Order 17 of Ann is late", "info"),
    ],
)
async def test_a_service_is_told_what_happened_and_how_bad_it_is(
    build: Build, receiver: Receiver, kind: Kind, title: str, type_: str
) -> None:
    assert await sent(build(at(receiver)), message(kind)) == Delivered()
    [request] = receiver.requests
    assert (request.json["title"], request.json["type"]) == (title, type_)
    assert request.json["message"].startswith("customer Ann, value 3\n")


async def test_own_title_and_body_are_templates(build: Build, receiver: Receiver) -> None:
    channel = build(
        at(receiver, schema="form"), title="{{ alert }}\n!", body="{{ row.order_id }} for {{ labels.customer }}"
    )
    assert await sent(channel) == Delivered()
    body = receiver.requests[0].body.decode()
    assert "title=late+%21" in body
    assert "message=17+for+Ann" in body


async def test_a_body_in_html_is_escaped_and_translated_for_services_that_take_text(
    build: Build, receiver: Receiver
) -> None:
    channel = build(
        at(receiver, "?format=text"), at(receiver, "?format=html"), format="html", body="<b>{{ row.note }}</b>"
    )
    await sent(channel, message(extra={"note": ("text", "a < b")}))
    assert {request.json["message"] for request in receiver.requests} == {"a < b", "<b>a &lt; b</b>"}


async def test_a_digest_lists_its_notifications(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=str(number)).envelope for number in range(12)]
    await sent(build(at(receiver)), replace(message(), envelope=merged(envelopes)))
    [request] = receiver.requests
    assert request.json["title"] == "late: 12 notifications (12 fired)"
    assert "Fired: Order 9 of Ann is late\nand 2 more" in request.json["message"]


async def test_a_message_without_a_body_is_its_title(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver), title="only this", body="{{ '' }}"))
    assert receiver.requests[0].json["message"] == "only this"


async def test_urls_of_an_alert_override_those_of_the_channel(build: Build, receiver: Receiver) -> None:
    await sent(build(at(receiver, "channel"), own={"urls": [at(receiver, "alert")]}))
    assert paths(receiver) == ["/alert"]


# Who gets it.


async def test_an_url_may_name_whom_to_tell_by_the_row_and_stays_one_part(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver, "sms/{{ row.phone }}"))
    await sent(channel, message(extra={"phone": ("text", "+49 1/../2?a=b&c#d")}))
    [path] = paths(receiver)
    assert path == "/sms/+49%201%2F..%2F2%3Fa=b&c%23d"


@pytest.mark.parametrize("phone", [None, ""])
async def test_a_row_that_names_nobody_is_a_dead_letter(build: Build, receiver: Receiver, phone: str | None) -> None:
    result = await sent(build(at(receiver, "{{ row.phone }}")), message(extra={"phone": ("text", phone)}))
    assert result == Rejected(Reason.NO_RECIPIENTS, "late: urls[0]: an expression prints nothing")
    assert not receiver.requests


async def test_an_url_that_names_nobody_is_left_out_and_the_others_are_told(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver, "{{ row.phone }}"), at(receiver, "room"))
    assert await sent(channel, message(extra={"phone": ("text", None)})) == Delivered()
    assert paths(receiver) == ["/room"]


async def test_an_url_that_two_entries_give_is_told_once(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver, "{{ row.who }}"), at(receiver, "room"))
    await sent(channel, message(extra={"who": ("text", "room")}))
    assert paths(receiver) == ["/room"]


async def test_a_digest_goes_to_everybody_whom_one_of_its_notifications_names(build: Build, receiver: Receiver) -> None:
    envelopes = [message(key=who, extra={"who": ("text", who)}).envelope for who in ("ann", "bob", "ann")]
    await sent(build(at(receiver, "{{ row.who }}")), replace(message(), envelope=merged(envelopes)))
    assert sorted(paths(receiver)) == ["/ann", "/bob"]


async def test_a_column_that_the_row_does_not_have_is_named(build: Build, receiver: Receiver) -> None:
    result = await sent(build(at(receiver, "{{ row.phne }}")))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert "'phne'" in result.detail


# How it went.


async def test_a_service_that_fails_is_tried_again_and_the_detail_says_why(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=500))
    channel = build(at(receiver))
    result = await sent(channel)
    assert isinstance(result, Retry)
    assert result.reason is Reason.SERVER_ERROR
    assert result.detail.startswith("JSON: ")
    assert "500" in result.detail
    assert await sent(channel) == Delivered()


async def test_of_several_only_the_one_that_failed_is_tried_again(build: Build, receiver: Receiver) -> None:
    failing = True
    receiver.otherwise = lambda request: Answer(status=503 if failing and request.path == "/b" else 200)
    channel = build(at(receiver, "a"), at(receiver, "b"), at(receiver, "c"))
    for _ in range(2):
        result = await sent(channel)
        assert isinstance(result, Retry)
        assert result.detail.startswith("2 of 3 have it; JSON: ")
    failing = False
    assert await sent(channel) == Delivered()
    assert sorted(paths(receiver)) == ["/a", "/b", "/b", "/b", "/c"]
    assert await sent(channel, message(key="18")) == Delivered()
    assert len(receiver.requests) == 8


async def test_a_service_that_does_not_answer_delays_no_other(build: Build, receiver: Receiver) -> None:
    receiver.otherwise = lambda request: Answer(hang=request.path == "/slow")
    channel = build(at(receiver, "slow"), at(receiver, "fast"), timeout="400ms")
    result = await sent(channel)
    assert result == Retry(Reason.TIMEOUT, "1 of 2 have it; no answer within 0.4 s")
    assert paths(receiver).count("/fast") == 1


async def test_what_outlives_its_attempt_and_succeeds_is_not_sent_again(build: Build) -> None:
    answer = asyncio.Event()
    requests = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await reader.readuntil(b"\r\n\r\n")
        await answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        # The service itself waits longer than the attempt.
        channel = build(f"json://127.0.0.1:{port}/", timeout="300ms")
        service = next(iter(channel._services.values()))
        service._plugin.socket_read_timeout = 20.0
        assert await sent(channel) == Retry(Reason.TIMEOUT, "no answer within 0.3 s")
        assert await sent(channel) == Retry(Reason.TIMEOUT, "no answer within 0.3 s")
        answer.set()
        [running] = channel._running.values()
        await until(running.done, "the thread ends")
        assert await sent(channel) == Delivered()
    assert requests == 1


async def test_messages_to_one_url_go_one_after_the_other(build: Build, receiver: Receiver) -> None:
    channel = build(at(receiver), concurrency=8)
    results = await channel.send([message(key=str(number)) for number in range(20)])
    assert results == [Delivered()] * 20
    titles = [request.json["title"] for request in receiver.requests]
    assert titles == [f"Fired: Order {number} of Ann is late" for number in range(20)]


async def test_a_service_s_own_pauses_are_off(build: Build, receiver: Receiver) -> None:
    channel = build(
        at(receiver), f"tgram://123456789:{'a' * 35}/@room", f"slack://T1JJ3T3L2/A1BRTD4JD/{'b' * 24}/#room"
    )
    assert [service._plugin.request_rate_per_sec for service in channel._services.values()] == [0, 0, 0]


async def test_redirects_are_not_followed(build: Build, receiver: Receiver) -> None:
    receiver.script(Answer(status=307, headers={"location": "/elsewhere"}))
    result = await sent(build(at(receiver)))
    assert isinstance(result, Retry)
    assert paths(receiver) == ["/"]


# Services as their makers address them: the address is turned to the receiver, all else is the library's.


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
async def test_a_well_known_service_gets_what_it_expects_and_no_secret_is_told_when_it_fails(
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
    told = repr((failed, channel)) + printed.getvalue()
    assert not [part for part in secrets if part in told]


async def test_a_secret_that_a_service_repeats_is_not_told(build: Build, receiver: Receiver) -> None:
    async with Receiver() as gone:
        url = f"json://user:{SECRET}@127.0.0.1:{gone.port}/{SECRET}/x?-token={SECRET}"
    result = await sent(build(url))
    assert isinstance(result, Retry)
    assert SECRET not in repr(result)


@pytest.mark.parametrize("url", [f"slack://TSECRET42/A1BRTD4JD/{'b' * 24}/#room", f"json://x/{SECRET}"])
async def test_a_service_that_breaks_is_tried_again_and_what_it_says_is_redacted(build: Build, url: str) -> None:
    def breaks(**_: Any) -> bool:
        raise RuntimeError(f"no {url} and no {SECRET}")

    channel = build("json://127.0.0.1")
    service = Service(url, 1.0, channel._log)
    cast("Any", service._plugin).notify = breaks
    failed = service.send("title", "body", Kind.FIRED, "text")
    assert failed is not None
    assert "RuntimeError: no ***" in failed
    assert not [part for part in url.partition("://")[2].split("/") if len(part) > 8 and part in failed]


# The configuration.


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("slakc://a/b/c", "Apprise knows no service slakc://; did you mean slack://?"),
        ("qwertyuiop://x", "Apprise knows no service qwertyuiop://"),
        ("syslog://x", "syslog:// does something on this machine and tells nobody"),
        ("dbus://x", "does something on this machine"),
        ("file:///etc/passwd", "does something on this machine"),
        ("exec://rm", "does something on this machine"),
        ("slakc://{{ row.x }}", "did you mean slack://?"),
        (f"discord://{SECRET}", "Apprise cannot use this discord URL"),
        (f"tgram://{SECRET}/x", "Apprise cannot use this tgram URL"),
        (f"https://example.com/{SECRET}", "Apprise cannot use this https URL"),
    ],
)
def test_an_url_of_which_nothing_can_be_made_is_refused_at_the_start_without_telling_it(
    build: Build, url: str, complaint: str, printed: io.StringIO
) -> None:
    with pytest.raises(ConfigError) as caught:
        build("json://127.0.0.1", url)
    [problem] = [problem for problem in caught.value.problems if problem.path == "channels.chat"]
    assert problem.message.startswith("urls[1]: ")
    assert complaint in problem.message
    assert SECRET not in str(caught.value) + printed.getvalue()


def test_the_address_that_a_service_shows_for_its_webhook_will_do(build: Build) -> None:
    channel = build(f"https://discord.com/api/webhooks/{'1' * 18}/{'a' * 60}")
    assert [service.name for service in channel._services.values()] == ["Discord"]


@pytest.mark.parametrize("urls", [["slack"], ["no url"], ["json://x\n"], ["json://{{ rw }}"], [""]])
def test_what_is_no_url_is_refused_with_its_place(urls: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        channel_apprise.Config.model_validate({"type": "apprise", "urls": ["json://x", *urls]})
    assert "urls[1]" in str(caught.value)


def test_urls_may_come_from_a_file(tmp_path: Any) -> None:
    (tmp_path / "urls").write_text(f"# the team\njson://127.0.0.1/{SECRET}\n\nform://127.0.0.1\n")
    config = channel_apprise.Config.model_validate({"type": "apprise", "urls_file": str(tmp_path / "urls")})
    assert [url.get_secret_value() for url in config.urls] == [f"json://127.0.0.1/{SECRET}", "form://127.0.0.1"]
    assert SECRET not in repr(config)
    assert config.missing() is None
    assert channel_apprise.Options().missing() == "no urls are given"


def test_a_missing_library_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", cast("Any", None))
    for name in ("channel", "services"):
        monkeypatch.delitem(sys.modules, f"tocsin.channels.apprise.{name}", raising=False)
    config = channel_apprise.Config.model_validate({"type": "apprise", "urls": ["json://x"]})
    with pytest.raises(ConfigError, match=r"install it with: pip install 'tocsin\[apprise\]'"):
        channel_apprise.build("chat", config, {})
