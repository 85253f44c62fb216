"""What every channel keeps: one suite over all of them, each against a receiver on this machine."""

import importlib
import io
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from support.channel_ends import ENDS, HTTP, SECRET, ConsoleEnd
from support.messages import message
from support.receiver import Answer, Received, Receiver
from support.sending import sent, without
from tocsin.channels.base import Channel, Delivered, Paused, Rejected, Result, Retry
from tocsin.errors import ConfigError, Reason
from tocsin.model import Kind
from tocsin.registry import CHANNELS


class Subject:
    """A kind of channel under test, and its other end."""

    def __init__(self, kind: str) -> None:
        self.end = ENDS[kind]()
        self.receiver = self.end.receiver
        self._kind = kind
        self._module = importlib.import_module(CHANNELS[kind])
        self._built: list[Channel] = []

    def config(self, **settings: Any) -> Any:
        values = {"type": self._kind, **self.end.settings(settings.pop("at", self.receiver.url)), **settings}
        return self._module.Config.model_validate(values)

    def build(self, **settings: Any) -> Channel:
        config = self.config(**settings)
        channel = cast("Channel", self._module.build("under-test", config, {"late": config}, **self.end.extras()))
        self._built.append(channel)
        return channel

    async def close(self) -> None:
        for channel in self._built:
            await channel.close()


@asynccontextmanager
async def running(kind: str) -> AsyncIterator[Subject]:
    subject = Subject(kind)
    async with subject.end:
        try:
            yield subject
        finally:
            await subject.close()


@pytest.fixture(params=sorted(CHANNELS))
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with running(request.param) as made:
        yield made


@pytest.fixture(params=HTTP)
async def http(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with running(request.param) as made:
        yield made


@pytest.mark.parametrize("kind", list(Kind))
async def test_channel_delivers_every_kind(subject: Subject, kind: Kind) -> None:
    what = message(kind)
    assert isinstance(await sent(subject.build(), what), Delivered)
    if kind is Kind.FIRED:
        assert subject.end.arrived() == [what.envelope]


async def test_results_are_in_order(subject: Subject) -> None:
    messages = [message(key=str(number)) for number in range(5)]
    results = await subject.build().send(messages)
    assert [type(result) for result in results] == [Delivered] * 5
    assert {envelope["id"]: envelope for envelope in subject.end.arrived()} == {
        one.id: one.envelope for one in messages
    }


async def test_batch_size_is_within_what_is_pending(subject: Subject) -> None:
    channel = subject.build()
    for pending in (1, 2, 99, 100, 101, 10_000):
        assert 1 <= channel.batch_size(pending) <= pending


async def test_closes_before_and_after_use_and_twice(subject: Subject) -> None:
    await subject.build().close()
    channel = subject.build()
    await sent(channel)
    await channel.close()
    await channel.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\"quoted\" 'twice' \\ and {{ not }} {% a %} template",
        "line\nbreak\r\ttab\x00nul\x1b[31mred\x7f\x85",
        "\N{GRINNING FACE} é \N{RIGHT-TO-LEFT OVERRIDE} \N{LINE SEPARATOR} \ufffe \U0010ffff",
        "<script>&amp;</script>",
        "x" * 1_000_000,
    ],
    ids=["empty", "quotes", "controls", "unicode", "html", "1MB"],
)
async def test_hostile_content_arrives_unchanged(subject: Subject, text: str) -> None:
    what = message(extra={"note": ("text", text), text[:100] or "blank": ("text", text)})
    assert isinstance(await sent(subject.build(), what), Delivered)
    assert subject.end.arrived() == [what.envelope]


async def test_preview_is_what_the_receiver_gets(subject: Subject) -> None:
    channel = subject.build()
    what = message(extra={"note": ("text", '"quoted" <b>é</b>\nand {{ not }} a template')})
    preview = channel.preview(what)
    await sent(channel, what)
    assert preview == subject.end.newest()


async def test_preview_shows_no_secret(subject: Subject) -> None:
    """Neither a secret of the configuration, nor one that a row repeats."""
    if subject.end.confidential():
        channel = subject.build(**subject.end.confidential())
        for kind in Kind:
            preview = channel.preview(message(kind, extra={"note": ("text", f"it is {SECRET}")}))
            assert isinstance(preview, Mapping)
            assert SECRET not in json.dumps(preview)
            assert SECRET.lower() not in json.dumps(preview).lower()


@pytest.mark.parametrize("kind", sorted(CHANNELS))
def test_every_setting_is_documented(kind: str) -> None:
    """Every option can be set for the whole channel."""
    module = importlib.import_module(CHANNELS[kind])
    for model in (module.Config, module.Options):
        properties = model.model_json_schema()["properties"]
        assert not [name for name, schema in properties.items() if not schema.get("description")]
    assert issubclass(module.Config, module.Options)


@pytest.mark.parametrize(
    ("kind", "library", "settings"),
    [
        ("apprise", "apprise", {"urls": ["json://x"]}),
        ("email", "aiosmtplib", {"host": "x", "from": "a@x.y", "to": ["b@x.y"]}),
        ("kafka", "confluent_kafka", {"bootstrap_servers": ["h:1"], "topic": "t"}),
    ],
)
def test_missing_library_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, kind: str, library: str, settings: dict[str, Any]
) -> None:
    module = importlib.import_module(CHANNELS[kind])
    without(
        monkeypatch,
        library,
        *[name for name in sys.modules if name.startswith((f"{module.__name__}.", "tocsin.kafka."))],
    )
    with pytest.raises(ConfigError, match=rf"install it with: pip install 'tocsin\[{kind}\]'"):
        module.build("under-test", module.Config.model_validate({"type": kind, **settings}), {})


# HTTP.


async def test_repeat_has_the_same_body_and_key(http: Subject) -> None:
    what = message()
    http.receiver.script(Answer(cut=True), Answer(status=503))
    channel = http.build()
    assert [type(await sent(channel, what)) for _ in range(3)] == [Retry, Retry, Delivered]
    assert {request.headers["idempotency-key"] for request in http.receiver.requests} == {what.id}
    assert len({request.body for request in http.receiver.requests}) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=500), (Retry, Reason.SERVER_ERROR)),
        (Answer(status=429), (Retry, Reason.RATE_LIMITED)),
        (Answer(status=408), (Retry, Reason.TIMEOUT)),
        (Answer(status=409), (Retry, Reason.IN_PROGRESS)),
        (Answer(status=425), (Retry, Reason.TOO_EARLY)),
        (Answer(hang=True), (Retry, Reason.TIMEOUT)),
        (Answer(cut=True), (Retry, Reason.CONNECTION)),
        (Answer(status=401), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=403, body=b"<html>"), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=404), (Rejected, Reason.NOT_FOUND)),
        (Answer(status=413), (Rejected, Reason.TOO_LARGE)),
        (Answer(status=422, body=b"[]", headers={"content-type": "application/json"}), (Rejected, Reason.REJECTED)),
    ],
    ids=lambda value: str(getattr(value, "status", "")) if isinstance(value, Answer) else value[1].value,
)
async def test_failure_is_classified_by_reason(http: Subject, answer: Answer, expected: tuple[type, Reason]) -> None:
    http.receiver.script(answer)
    result = await sent(http.build(timeout="300ms" if answer.hang else "20s"))
    assert not isinstance(result, Delivered)
    assert (type(result), result.reason) == expected


async def test_redirect_is_not_followed(http: Subject) -> None:
    http.receiver.script(Answer(status=302, headers={"location": "/"}))
    result = await sent(http.build())
    assert isinstance(result, Rejected | Paused)
    assert result.reason is Reason.REJECTED
    assert len(http.receiver.requests) == 1


async def test_no_http_status_raises(http: Subject) -> None:
    channel = http.build()
    for status in range(200, 600, 7):
        http.receiver.script(*[Answer(status=status, body=b"?" if status not in (204, 304) else b"")] * 9)
        assert isinstance(await sent(channel), Delivered | Retry | Rejected | Paused)


async def test_refused_connection_is_retried(http: Subject) -> None:
    async with Receiver() as gone:
        url = gone.url
    result = await sent(http.build(at=url))
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION
    assert result.detail == f"cannot connect to {url.removeprefix('http://')}: Connection refused"


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500])
async def test_echoed_secret_is_not_shown(http: Subject, status: int) -> None:
    def echo(request: Received) -> Answer:
        body = {"message": f"bad {request.headers['authorization']}", "path": request.path}
        headers = {"location": f"/{SECRET}", "content-type": "application/json"}
        return Answer(status=status, body=json.dumps(body).encode(), headers=headers)

    http.receiver.otherwise = echo
    channel = http.build()
    results: Sequence[Result] = [await sent(channel), *await channel.send([message(key=key) for key in "abc"])]
    assert SECRET in http.receiver.requests[0].headers["authorization"]
    for shown in (*results, channel, http.config()):
        assert SECRET not in repr(shown)


async def test_detail_is_one_short_line(http: Subject) -> None:
    http.receiver.otherwise = lambda _: Answer(status=400, body=b"line\n" * 100_000)
    result = await sent(http.build())
    assert isinstance(result, Rejected)
    assert len(result.detail) <= 200
    assert result.detail.isprintable()


# The console.


async def test_hostile_label_breaks_no_line_of_the_console() -> None:
    async with running("console") as subject:
        what = message(extra={"note": ("text", "x")})
        what.envelope["labels"]["customer"] = 'a\nb "c" \x1b[2J\N{LINE SEPARATOR}é'
        channel = subject.build(format="text")
        await sent(channel, what)
        printed = cast("ConsoleEnd", subject.end).printed
        [line] = printed.getvalue().splitlines()
        assert line.isprintable()
        assert r'customer="a\nb \"c\" \u001b[2J\u2028\u00e9"' in line
        printed.close()
        assert await sent(channel) == Retry(Reason.CONNECTION, "cannot write: the output is closed")


async def test_console_shows_labels_called_as_its_own_fields() -> None:
    async with running("console") as subject:
        what = message()
        what.envelope["labels"] = {"id": "17", "value": "Ann", "severity": "high"}
        what.envelope["annotations"] = {"severity": "note"}
        what.envelope["value"], what.envelope["id"] = 3, "abc"
        await sent(subject.build(format="text"), what)
        printed = cast("ConsoleEnd", subject.end).printed.getvalue()
        assert printed.endswith("id=17 value=Ann severity=high | severity=note value=3 id=abc\n")


async def test_console_writes_utf8_in_any_locale(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    module = importlib.import_module(CHANNELS["console"])
    config = module.Config()
    what = message()
    what.envelope["labels"]["customer"] = "Zo\u00eb"
    assert await module.build("c", config, {"late": config}).send([what]) == [Delivered()]
    assert "customer=Zo\u00eb" in capsysbinary.readouterr().out.decode()


async def test_console_writes_utf8_to_an_unbuffered_stream() -> None:
    """As standard output is with PYTHONUNBUFFERED."""
    module = importlib.import_module(CHANNELS["console"])
    config = module.Config()
    what = message()
    what.envelope["labels"]["customer"] = "Zo\u00eb"
    with tempfile.TemporaryFile(buffering=0) as raw:
        stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
        assert await module.build("c", config, {"late": config}, stream=stream).send([what]) == [Delivered()]
        raw.seek(0)
        assert "customer=Zo\u00eb" in raw.read().decode()
