"""Unexpected behaviour of the library Apprise that the channel corrects."""

from typing import Any

import pytest

from support.apprise import SECRET, at, paths
from support.messages import message
from support.receiver import Answer, Received, Receiver
from support.sending import Build, sent
from tocsin.channels.base import Delivered, Rejected, Retry
from tocsin.errors import ConfigError, Reason


def texts(receiver: Receiver) -> list[str]:
    """The text of each request, in order."""
    return [request.json["message"] for request in receiver.requests]


@pytest.mark.parametrize("options", ["", "?redirect=yes"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_to_a_login_page_delivers_nothing(
    build: Build, receiver: Receiver, status: int, options: str
) -> None:
    """Followed, the message becomes an empty GET, and the page's 200 success; the URL may even ask for it."""

    def answer(request: Received) -> Answer:
        return Answer(status=200 if request.path == "/login" else status, headers={"location": "/login"})

    receiver.otherwise = answer
    result = await sent(build(at(receiver, options)))
    assert isinstance(result, Retry)
    assert result.reason is Reason.SERVER_ERROR
    assert paths(receiver) == ["/"]


async def test_failed_optional_service_is_retried(build: Build, receiver: Receiver) -> None:
    """The library would report success."""
    receiver.script(Answer(status=500))
    channel = build(at(receiver, "?optional=yes"))
    assert isinstance(await sent(channel), Retry)
    assert await sent(channel) == Delivered()


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_attempt_is_one_request_despite_url_options(build: Build, receiver: Receiver, status: int) -> None:
    """Attempts are the dispatcher's, which knows waits and limits; the library repeats a 400 like a 429."""
    receiver.script(Answer(status=status, headers={"retry-after": "1"}))
    channel = build(at(receiver, "?retry=3&wait=0"))
    assert isinstance(await sent(channel), Retry)
    assert len(receiver.requests) == 1


def _discord(channel: Any, receiver: Receiver) -> None:
    [service] = channel._services.values()
    service._plugin.notify_url = f"{receiver.url}/api/webhooks"


@pytest.mark.parametrize(
    ("options", "length"), [("", 2000), ("?overflow=truncate", 2000), ("?overflow=upstream", 6000)]
)
async def test_text_is_truncated_to_service_limit(build: Build, receiver: Receiver, options: str, length: int) -> None:
    """Discord refuses more than 2,000 characters. `overflow` sends the whole text."""
    receiver.otherwise = lambda request: Answer(status=204 if len(request.json["content"]) <= 2000 else 400)
    channel = build(f"discord://{'1' * 18}/{SECRET}{options}", title="{{ '' }}", body="x" * 6000)
    _discord(channel, receiver)
    result = await sent(channel)
    assert isinstance(result, Delivered if length == 2000 else Retry)
    assert {len(request.json["content"]) for request in receiver.requests} == {length}


async def test_pieces_of_split_text_keep_their_order(build: Build, receiver: Receiver) -> None:
    """The library sends the third piece though the second failed, and in the next attempt all three again."""
    channel = build(at(receiver, "?overflow=split"), body="a" * 30_000 + "b" * 30_000 + "c" * 30_000)
    receiver.script(Answer(), Answer(status=500))
    assert isinstance(await sent(channel), Retry)
    assert len(receiver.requests) == 2
    assert await sent(channel) == Delivered()
    first, failed, *rest = texts(receiver)
    assert [first, *rest] != sorted([first, *rest], reverse=True)
    assert failed == rest[0]
    assert "".join([first, *rest]).replace(" ", "").count("b") == 30_000
    assert len(receiver.requests) == 4
    assert await sent(channel, message(key="18")) == Delivered()
    assert len(receiver.requests) == 7


async def test_sent_pieces_are_remembered_per_url(build: Build, receiver: Receiver) -> None:
    """Two rooms with the same text: a piece that one has is still sent to the other."""
    channel = build(
        at(receiver, "one?overflow=split"), at(receiver, "two?overflow=split"), body="a" * 30_000 + "b" * 30_000
    )
    failing = True

    def answer(request: Received) -> Answer:
        return Answer(status=500 if failing and request.path == "/two" and "b" in request.json["message"] else 200)

    receiver.otherwise = answer
    assert isinstance(await sent(channel), Retry)
    failing = False
    assert await sent(channel) == Delivered()
    assert sorted(paths(receiver)) == ["/one"] * 2 + ["/two"] * 3
    assert channel._pieces == {}


@pytest.mark.parametrize("url", [f"mailto://me:{SECRET}@mail.example.com", f"mailto://me:{SECRET}@mail.example.com:25"])
def test_mail_password_in_clear_text_is_refused(build: Build, url: str) -> None:
    """The library uses no TLS with mailto://, even where the server offers it."""
    with pytest.raises(ConfigError, match=r"urls\[0\]: mailto:// would send the password in clear text") as caught:
        build(url)
    assert SECRET not in str(caught.value)


async def test_password_in_templated_url_is_never_sent_unencrypted(build: Build) -> None:
    """A templated URL is checked when it is rendered."""
    channel = build(f"mailto://me:{SECRET}@{{{{ row.host }}}}")
    result = await sent(channel, message(extra={"host": ("text", "mail.example.com")}))
    assert isinstance(result, Rejected)
    assert result.detail.startswith("mailto:// would send the password in clear text")


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
