"""The apprise channel where a service hangs, or the library does what one would not expect."""

import asyncio
import threading

import pytest

from support.apprise import DISCORD, HUNG, NO_ANSWER, SECRET, TELEGRAM, aimed, at, ended, paths
from support.messages import message
from support.receiver import Answer, Received, Receiver
from support.sending import Build, sent
from support.waiting import until
from tocsin.channels.base import Delivered, Message, Rejected, Retry
from tocsin.errors import ConfigError, Reason

# Sends that hang.


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
