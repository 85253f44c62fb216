"""What the errors of RabbitMQ and of its library mean."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError, PublishError
from aiormq.exceptions import AuthenticationError, ProbableAuthenticationError
from pamqp.commands import Channel, Connection

from tocsin.errors import SourceError, SourceReason
from tocsin.sources.rabbitmq.settings import Config

Redact = Callable[[str], str]
"""Removes the secrets from a text."""

_DIFFERS = re.compile(
    r"inequivalent arg '([^']+)' for (queue|exchange) '(.*?)' in vhost .*?: received (.*) but current is (.*)"
)
_SETTINGS: Mapping[tuple[str, str], str] = {
    ("queue", "durable"): "queue_durable",
    ("queue", "x-queue-type"): "queue_type",
    ("exchange", "durable"): "exchange_durable",
    ("exchange", "type"): "exchange_type",
}
BY_CODE: Mapping[int, SourceReason] = {
    403: SourceReason.PERMISSION,
    404: SourceReason.MISSING,
    405: SourceReason.PERMISSION,  # another connection uses the queue exclusively
    406: SourceReason.SHAPE,
}
_CODE = re.compile(r"([A-Z_]{6,}) - ")
_CODES: Mapping[str, int] = {
    "ACCESS_REFUSED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_LOCKED": 405,
    "PRECONDITION_FAILED": 406,
}


@asynccontextmanager
async def answering(
    config: Config, redact: Redact, otherwise: SourceReason = SourceReason.DISCONNECTED
) -> AsyncIterator[None]:
    """Limit a request to `connect_timeout`; errors become SourceErrors."""
    with translating(config, redact, otherwise):
        async with asyncio.timeout(config.connect_timeout):
            yield


@contextmanager
def translating(config: Config, redact: Redact, otherwise: SourceReason) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise SourceError(f"{config.display}: no answer within {config.connect_timeout:g} s", otherwise) from None
    except asyncio.CancelledError:
        # The library cancels calls on a lost connection; that is not meant for this task.
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        raise SourceError(f"{config.display}: the connection is lost", otherwise) from None
    except (*CONNECTION_EXCEPTIONS, ValueError) as error:
        raise translated(error, config, redact, otherwise) from None


def translated(error: BaseException, config: Config, redact: Redact, otherwise: SourceReason) -> SourceError:
    """Return the SourceError for an error of the library."""
    text = _text(error)
    if isinstance(error, PublishError):
        return SourceError(
            f"{config.display}: the exchange {config.dead_letter_name} routes a dead letter to no queue; bind one",
            SourceReason.MISSING,
        )
    if isinstance(error, DeliveryError):
        return SourceError(
            f"{config.display}: the server refuses dead letters in {config.dead_letter_name}", SourceReason.OTHER
        )
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        return SourceError(f"{config.display}: {redact(text)}", SourceReason.AUTH)
    if (differs := _DIFFERS.search(text)) is not None:
        return SourceError(f"{config.display}: {redact(_difference(config, differs))}", SourceReason.SHAPE)
    code = _CODES.get(match[1]) if (match := _CODE.search(text)) else None
    if "NOT_ALLOWED - vhost" in text or "NOT_ALLOWED - access to vhost" in text:
        code = 404 if "not found" in text else 403
    return SourceError(f"{config.display}: {redact(text)}", BY_CODE.get(code or 0, otherwise))


def _text(error: BaseException) -> str:
    closing = [part.reply_text for part in error.args if isinstance(part, Connection.Close | Channel.Close)]
    texts = closing or [part for part in error.args if isinstance(part, str) and part]
    return texts[-1] if texts else str(error) or type(error).__name__


def _difference(config: Config, differs: re.Match[str]) -> str:
    argument, kind, name, ours, theirs = differs.groups()
    if argument == "x-queue-type" and theirs == "'stream'":
        return a_stream(name)
    if name == config.dead_letter_name:
        fix = "set dead_letters to another name"
    else:
        setting = _SETTINGS.get((kind, argument), "queue_arguments" if kind == "queue" else "exchange")
        fix = f"set {setting} to the existing value"
    return f"the {kind} {name} exists with another {argument}: {theirs} there, {ours} here; {fix}, or delete the {kind}"


def a_stream(queue: str) -> str:
    """Return the message about a queue that is a stream."""
    return (
        f"the queue {queue} is a stream, which delivers acknowledged messages again and skips those that came while "
        "Tocsin was down; name a classic or a quorum queue, or delete it"
    )
