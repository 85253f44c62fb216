"""What every channel keeps, whatever it talks to: one suite over all of them, each against a receiver on this
machine."""

import importlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from support.channel_benches import SECRET, Bench, bench
from support.messages import message
from support.receiver import Answer, Received, Receiver
from tocsin.channels.base import Channel, Delivered, Message, Paused, Rejected, Result, Retry
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.registry import CHANNELS

HTTP = [kind for kind in sorted(CHANNELS) if bench(kind).http]


class Subject:
    """A channel under test and its bench."""

    def __init__(self, kind: str, made: Bench) -> None:
        self.kind = kind
        self.bench = made
        self.module = importlib.import_module(CHANNELS[kind])
        self._made: list[Channel] = []

    @property
    def receiver(self) -> Receiver:
        return self.bench.receiver

    def config(self, **settings: Any) -> Any:
        values = {"type": self.kind, **self.bench.settings(settings.pop("at", self.receiver.url)), **settings}
        return self.module.Config.model_validate(values)

    def build(self, **settings: Any) -> Channel:
        config = self.config(**settings)
        channel = cast("Channel", self.module.build("under-test", config, {"late": config}, **self.bench.extras()))
        self._made.append(channel)
        return channel

    def arrived(self) -> list[Any]:
        """The envelopes that reached the other end."""
        return self.bench.arrived()

    async def close(self) -> None:
        for channel in self._made:
            await channel.close()


@asynccontextmanager
async def benched(kind: str) -> AsyncIterator[Subject]:
    async with bench(kind) as made:
        subject = Subject(kind, made)
        try:
            yield subject
        finally:
            await subject.close()


@pytest.fixture(params=sorted(CHANNELS))
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with benched(request.param) as made:
        yield made


@pytest.fixture(params=HTTP)
async def http(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with benched(request.param) as made:
        yield made


async def sent(channel: Channel, what: Message | None = None) -> Result:
    [result] = await channel.send([what or message()])
    return result


async def test_it_delivers_once(subject: Subject) -> None:
    what = message()
    assert isinstance(await sent(subject.build(), what), Delivered)
    assert subject.arrived() == [what.envelope]


@pytest.mark.parametrize("kind", list(Kind))
async def test_it_delivers_every_kind_or_says_why_not(subject: Subject, kind: Kind) -> None:
    assert isinstance(await sent(subject.build(), message(kind)), Delivered)


async def test_it_tells_of_each_message_in_order(subject: Subject) -> None:
    messages = [message(key=str(number)) for number in range(5)]
    results = await subject.build().send(messages)
    assert [type(result) for result in results] == [Delivered] * 5
    by_id = {envelope["id"]: envelope for envelope in subject.arrived()}
    assert by_id == {each.id: each.envelope for each in messages}


async def test_it_takes_at_least_one_and_never_more_than_there_are(subject: Subject) -> None:
    channel = subject.build()
    for pending in (1, 2, 99, 100, 101, 10_000):
        assert 1 <= channel.batch_size(pending) <= pending


async def test_the_id_reaches_the_receiver_as_idempotency_key(http: Subject) -> None:
    what = message()
    await sent(http.build(), what)
    assert http.receiver.requests[0].headers["idempotency-key"] == what.id


async def test_a_repeat_is_byte_identical(http: Subject) -> None:
    http.receiver.script(Answer(status=503))
    channel = http.build()
    assert isinstance(await sent(channel), Retry)
    assert isinstance(await sent(channel), Delivered)
    first, second = http.receiver.requests
    assert (first.body, first.headers["idempotency-key"]) == (second.body, second.headers["idempotency-key"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(status=500), (Retry, Reason.SERVER_ERROR)),
        (Answer(status=503, body=b"{", headers={"content-type": "application/json"}), (Retry, Reason.SERVER_ERROR)),
        (Answer(status=429, headers={"retry-after": "3"}), (Retry, Reason.RATE_LIMITED)),
        (Answer(status=408), (Retry, Reason.TIMEOUT)),
        (Answer(status=409), (Retry, Reason.IN_PROGRESS)),
        (Answer(status=425), (Retry, Reason.TOO_EARLY)),
        (Answer(hang=True), (Retry, Reason.TIMEOUT)),
        (Answer(cut=True), (Retry, Reason.CONNECTION)),
        (Answer(status=401), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=402), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=403, body=b"<html>"), (Paused, Reason.UNAUTHORIZED)),
        (Answer(status=400), (Rejected, Reason.REJECTED)),
        (Answer(status=404), (Rejected, Reason.NOT_FOUND)),
        (Answer(status=413), (Rejected, Reason.TOO_LARGE)),
        (Answer(status=422, body=b"[]", headers={"content-type": "application/json"}), (Rejected, Reason.REJECTED)),
    ],
    ids=lambda value: str(getattr(value, "status", "")) if isinstance(value, Answer) else value[1].value,
)
async def test_a_failure_is_told_rightly(http: Subject, answer: Answer, expected: tuple[type, Reason]) -> None:
    http.receiver.script(answer)
    result = await sent(http.build(timeout="300ms" if answer.hang else "20s"))
    assert not isinstance(result, Delivered)
    assert (type(result), result.reason) == expected


async def test_a_redirect_is_neither_followed_nor_a_delivery(http: Subject) -> None:
    """Where a row can say the address, only its notification is refused; else the channel pauses."""
    http.receiver.script(Answer(status=302, headers={"location": "/"}))
    result = await sent(http.build())
    assert isinstance(result, Rejected | Paused)
    assert result.reason is Reason.REJECTED
    assert len(http.receiver.requests) == 1


async def test_a_retry_after_is_honoured(http: Subject) -> None:
    http.receiver.script(Answer(status=429, headers={"retry-after": "3"}))
    result = await sent(http.build())
    assert isinstance(result, Retry)
    assert result.after == 3.0


@pytest.mark.parametrize("status", range(200, 600, 7))
async def test_no_status_makes_it_raise(http: Subject, status: int) -> None:
    http.receiver.script(*[Answer(status=status, body=b"?" if status not in (204, 304) else b"")] * 9)
    assert isinstance(await sent(http.build()), Delivered | Retry | Rejected | Paused)


async def test_a_refused_connection_is_retried(http: Subject) -> None:
    async with Receiver() as gone:
        url = gone.url
    result = await sent(http.build(at=url))
    assert isinstance(result, Retry)
    assert result.reason is Reason.CONNECTION


async def test_it_recovers_by_itself(http: Subject) -> None:
    channel = http.build()
    http.receiver.script(Answer(cut=True), Answer(status=500))
    results = [await sent(channel) for _ in range(3)]
    assert [type(result) for result in results] == [Retry, Retry, Delivered]


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
async def test_hostile_content_arrives_as_it_is(subject: Subject, text: str) -> None:
    what = message(extra={"note": ("text", text), text[:100] or "blank": ("text", text)})
    assert isinstance(await sent(subject.build(), what), Delivered)
    assert subject.arrived() == [what.envelope]


async def test_a_hostile_label_breaks_no_line_of_the_console() -> None:
    async with benched("console") as subject:
        what = message(extra={"note": ("text", "x")})
        what.envelope["labels"]["customer"] = 'a\nb "c" \x1b[2J\N{LINE SEPARATOR}é'
        await sent(subject.build(format="text"), what)
        [line] = cast("Any", subject.bench).printed.getvalue().splitlines()
        assert line.isprintable()
        assert r'customer="a\nb \"c\" \u001b[2J\u2028\u00e9"' in line


async def test_the_console_writes_to_standard_output_whatever_the_text(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    module = importlib.import_module(CHANNELS["console"])
    config = module.Config()
    what = message()
    what.envelope["labels"]["customer"] = "Zo\u00eb"
    assert await module.build("c", config, {"late": config}).send([what]) == [Delivered()]
    assert "customer=Zo\u00eb" in capsysbinary.readouterr().out.decode()


async def test_a_console_whose_output_is_closed_says_so() -> None:
    async with benched("console") as subject:
        channel = subject.build()
        cast("Any", subject.bench).printed.close()
        assert await sent(channel) == Retry(Reason.CONNECTION, "cannot write: the output is closed")


def _echo(request: Received) -> bytes:
    return json.dumps({"message": f"bad {request.headers['authorization']}", "path": request.path}).encode()


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500])
async def test_no_secret_is_told_even_when_the_receiver_repeats_it(http: Subject, status: int) -> None:
    http.receiver.otherwise = lambda request: Answer(
        status=status, body=_echo(request), headers={"location": f"/{SECRET}", "content-type": "application/json"}
    )
    channel = http.build()
    results: Sequence[Result] = [await sent(channel), *await channel.send([message(key=key) for key in "abc"])]
    assert SECRET in http.receiver.requests[0].headers["authorization"]
    for told in (*results, channel, http.config()):
        assert SECRET not in repr(told)


async def test_no_detail_is_long_or_has_several_lines(http: Subject) -> None:
    http.receiver.otherwise = lambda _: Answer(status=400, body=b"line\n" * 100_000)
    result = await sent(http.build())
    assert isinstance(result, Rejected)
    assert len(result.detail) <= 200
    assert result.detail.isprintable()


async def test_it_closes_before_use_after_use_and_twice(subject: Subject) -> None:
    await subject.build().close()
    channel = subject.build()
    await sent(channel)
    await channel.close()
    await channel.close()


@pytest.mark.parametrize("kind", sorted(CHANNELS))
def test_every_setting_is_documented_and_every_option_can_be_set_for_the_whole_channel(kind: str) -> None:
    module = importlib.import_module(CHANNELS[kind])
    for model in (module.Config, module.Options):
        properties = model.model_json_schema()["properties"]
        assert not [name for name, schema in properties.items() if not schema.get("description")]
    assert issubclass(module.Config, module.Options)
