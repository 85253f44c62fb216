"""What the errors of RabbitMQ and of its library mean."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError, PublishError
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionInternalError,
    ProbableAuthenticationError,
)

from tocsin.errors import SourceError, SourceReason
from tocsin.faults import must_end, why_unreachable
from tocsin.redaction import redactor
from tocsin.sources.rabbitmq.settings import Config

UNWRITABLE = (TypeError, ValueError, OverflowError, struct.error)
"""What the library raises for values that it cannot write."""
FAULTS = (*CONNECTION_EXCEPTIONS, *UNWRITABLE)
"""What the library raises."""

_REASONS: Mapping[type[BaseException], SourceReason] = {
    AuthenticationError: SourceReason.AUTH,
    ProbableAuthenticationError: SourceReason.AUTH,
    ChannelAccessRefused: SourceReason.PERMISSION,
    ChannelLockedResource: SourceReason.PERMISSION,  # another connection uses the queue exclusively
    ChannelNotFoundEntity: SourceReason.MISSING,
    ChannelPreconditionFailed: SourceReason.SHAPE,
}
OF_AN_OBJECT = frozenset({SourceReason.PERMISSION, SourceReason.MISSING, SourceReason.SHAPE})
"""Reasons that concern one queue or exchange."""

_DIFFERS = re.compile(
    r"inequivalent arg '([^']+)' for (queue|exchange) '(.*?)' in vhost .*?: received (.*) but current is (.*)"
)
_SETTINGS: Mapping[tuple[str, str], str] = {
    ("queue", "durable"): "queue_durable",
    ("queue", "x-queue-type"): "queue_type",
    ("exchange", "durable"): "exchange_durable",
    ("exchange", "type"): "exchange_type",
}


@asynccontextmanager
async def answering(config: Config, otherwise: SourceReason = SourceReason.DISCONNECTED) -> AsyncIterator[None]:
    """Limit a request to `connect_timeout`; errors become SourceErrors. `otherwise`: the reason of those without one
    of their own."""
    try:
        async with asyncio.timeout(config.connect_timeout):
            yield
    except TimeoutError:
        raise SourceError(f"{config.display}: no answer within {config.connect_timeout:g} s", otherwise) from None
    except asyncio.CancelledError as error:
        # The library cancels calls on a lost connection; that is not meant for this task.
        if must_end(error):
            raise
        raise translated(error, config, otherwise) from None
    except FAULTS as error:
        raise translated(error, config, otherwise) from None


def translated(error: BaseException, config: Config, otherwise: SourceReason, *, queue: str = "") -> SourceError:
    """Return the SourceError for an error of the library. `queue`: the one that it is about, if not the source's."""
    text, reason = _text(error), _REASONS.get(type(error), otherwise)
    if isinstance(error, asyncio.CancelledError):
        text = "the connection is lost"
    elif isinstance(error, PublishError):
        text = f"the exchange {config.dead_letter_name} routes a dead letter to no queue; bind one"
        reason = SourceReason.MISSING
    elif isinstance(error, DeliveryError):
        text, reason = f"the server refuses dead letters in {config.dead_letter_name}", SourceReason.OTHER
    elif (differs := _DIFFERS.search(text)) is not None:
        text = _difference(config, differs)
    elif isinstance(error, ChannelPreconditionFailed) and otherwise is SourceReason.DISCONNECTED:
        reason = otherwise  # of a running consumer, such as one that held a message for too long
    elif isinstance(error, ConnectionInternalError):
        text, reason = _internal(queue or config.queue, text, reason)
    elif "NOT_ALLOWED - vhost" in text or "NOT_ALLOWED - access to vhost" in text:  # one code for both
        reason = SourceReason.MISSING if "not found" in text else SourceReason.PERMISSION
    return SourceError(redactor(config.hidden())(text), reason, server=config.display)


def a_stream(queue: str) -> str:
    """Return the message about a queue that is a stream."""
    return (
        f"the queue {queue} is a stream, which delivers acknowledged messages again and skips those that came while "
        "Tocsin was down; name a classic or a quorum queue, or delete it"
    )


def _internal(queue: str, text: str, reason: SourceReason) -> tuple[str, SourceReason]:
    """Return text and reason of an internal error, for which the server has one code."""
    if "transient_nonexcl_queues" in text:
        fix = "set it to true; with x-expires in queue_arguments, the queue ends when it is not used"
        return f"this server refuses queue_durable: false; {fix}", SourceReason.SHAPE
    return f"{text}: the server failed over the queue {queue} or one of its messages; see its log", reason


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, AMQPError):
        return why_unreachable(error)
    texts = [part for part in error.args if isinstance(part, str) and part]
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
