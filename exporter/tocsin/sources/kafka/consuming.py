"""A consumer of the library with its own thread: every call goes through it, so that none holds the event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from tocsin.errors import SourceError, SourceReason
from tocsin.kafka import (
    FORBIDDEN,
    GROUP_FORBIDDEN,
    LOGIN_REFUSED,
    MAX_POLL_EXCEEDED,
    OFFSET_RESET,
    TIMED_OUT,
    UNKNOWN_TOPIC,
    Fault,
    LibraryLog,
    Trouble,
    cause,
    message_of,
    retriable,
)
from tocsin.redaction import redactor
from tocsin.sources.kafka.settings import Config

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_RECORDS = 1000
"""Records in one batch."""
_WAIT = 0.2
"""Seconds that one call waits for a record, and so the longest that closing waits for the thread."""
_CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """The brokers' description of a topic."""

    id: str
    """Empty where the brokers have none. A recreated topic has another id."""
    partitions: list[int]
    allowed: list[Any] | None
    """What the user may do with it; None where that is unknown."""


class ConsumerThread:
    """One consumer, used in its own thread only. Its errors are SourceErrors."""

    def __init__(self, source: str, config: Config, settings: Mapping[str, Any]) -> None:
        self.config = config
        self.redact = redactor(config.hidden())
        self.trouble = Trouble(self.redact)
        self._log = LibraryLog(self.redact, source=source)
        # How long no process reads the partitions of one that was killed; with KIP-848 the brokers decide it.
        session = {"session.timeout.ms": 10_000} if config.group_protocol == "classic" else {}
        settings = {
            "fetch.wait.max.ms": 100,
            **session,
            # A broker that stops answering is noticed although its connection stays open.
            "socket.timeout.ms": max(2_000, round(config.progress_timeout * 1000)),
            **config.client_settings(),
            "group.id": config.group,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            **settings,
            "logger": self._log,
            "error_cb": self.trouble.report,
        }
        try:
            self.consumer = Consumer(settings)
        except (KafkaException, ValueError, TypeError) as error:
            text = f"librdkafka refuses the settings: {self.redact(message_of(error))}"
            raise SourceError(text, SourceReason.OTHER) from None
        self._admin: AdminClient | None = None
        self._admin_trouble = Trouble(self.redact)
        self._clients = ExitStack()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon, not a thread of an executor: the end of the process would wait for a silent broker.
        threading.Thread(target=self._run, name=f"kafka source {source}", daemon=True).start()

    # On the event loop.

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Run something in the thread."""
        done: Future[T] = Future()

        def job() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(self.translated(work, *arguments))
                except BaseException as error:  # noqa: BLE001 - the caller gets it
                    done.set_exception(error)

        self._work.put(job)
        return await asyncio.wrap_future(done)

    async def close(self) -> None:
        """Leave the group. Waits a limited time for it."""
        closing = asyncio.ensure_future(self.call(self._leave))
        closing.add_done_callback(self._end)
        await asyncio.wait({closing}, timeout=_CLOSE_TIMEOUT)

    def admin(self) -> AdminClient:
        """Return a client for what a consumer cannot ask."""
        if self._admin is None:
            own: dict[str, Any] = {"logger": self._log, "error_cb": self._admin_trouble.report}
            # Left to the garbage collector, it could end in a thread of the library, and the process with it.
            self._admin = self._clients.enter_context(AdminClient({**self.config.client_settings(), **own}))
        self._admin.poll(0)  # otherwise its events would pile up
        return self._admin

    async def describe(self, topics: Sequence[str], *, rights: bool = False) -> dict[str, Topic | SourceError]:
        """Return the descriptions of topics, an error for one that does not exist or that the user may not see.
        `rights`: with what the user may do. Raises SourceError where the brokers do not answer."""
        limit = self.config.connect_timeout
        found: dict[str, Topic | SourceError] = {}
        asked = self.admin().describe_topics(
            TopicCollection([*topics]), include_authorized_operations=rights, request_timeout=limit
        )
        for topic, answer in asked.items():
            try:
                async with asyncio.timeout(limit + 1):
                    found[topic] = _topic(await asyncio.wrap_future(answer))
            except (KafkaException, TimeoutError) as error:
                fault = cause(error)
                if fault is None or fault.code() in TIMED_OUT:
                    raise self._unanswered() from None
                found[topic] = self.error(fault, topic)
        return found

    async def existing(self, topics: Sequence[str]) -> dict[str, Topic]:
        """Return the descriptions of topics. Raises SourceError, also where one does not exist."""
        found = await self.describe(topics)
        for one in found.values():
            if isinstance(one, SourceError):
                raise one
        return {topic: one for topic, one in found.items() if isinstance(one, Topic)}

    async def checked(self, known: Mapping[str, str]) -> dict[str, Topic]:
        """Return the descriptions of topics with known ids; none while no broker answers, which the reader reports.

        Raises SourceError if one has another id now, or was deleted: the library reads on in a recreated topic as if it
        were the old one."""
        try:
            found = await self.existing(list(known))
        except SourceError as error:
            if error.reason in (SourceReason.CONNECT, SourceReason.DISCONNECTED):
                return {}
            raise
        for topic, id_ in known.items():
            if id_ and found[topic].id and found[topic].id != id_:
                text = f"the topic {topic} was recreated; reading it from the beginning"
                raise SourceError(text, SourceReason.REPLACED, server=self.config.display)
        return found

    def _unanswered(self) -> SourceError:
        self.admin()  # the library reports the reason now
        if self._admin_trouble.forbidden is not None:
            return self.error(self._admin_trouble.forbidden)
        reason = self._admin_trouble.reason or f"no answer within {self.config.connect_timeout:g} s"
        return SourceError(reason, SourceReason.CONNECT, server=self.config.display)

    def _end(self, closing: asyncio.Future[None]) -> None:
        self._work.put(None)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.debug("the consumer is not closed", error=str(error))

    # In the thread.

    def ends(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the offsets of the first record of a partition and of the next one to come. Raises KafkaException, and
        SourceError where no broker answers."""
        limit = self.config.connect_timeout
        ends = self.consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=limit)
        if ends is None:
            raise SourceError(f"no answer about {topic}", SourceReason.CONNECT, server=self.config.display)
        return ends

    def records(self, wait: float = _WAIT) -> list[Message]:
        """Return the records that have arrived, or the first that arrives within `wait` seconds."""
        first = self.consumer.poll(wait)
        self._check_connection()
        if first is None:
            return []
        self.trouble.over()
        return [first, *self.consumer.consume(MAX_RECORDS - 1, 0)]

    def error(self, fault: Fault, topic: str = "", right: str = "READ and DESCRIBE") -> SourceError:
        """Return the error for a fault in place of a record, or in an answer. `right`: what the user needs on the
        topic."""
        text, code, fix = self.redact(fault.str().partition(" (after ")[0]), fault.code(), ""
        reason = SourceReason.DISCONNECTED
        if code in LOGIN_REFUSED:
            reason = SourceReason.AUTH
        elif code in FORBIDDEN:
            reason = SourceReason.PERMISSION
            what = f"{right} on {f'the topic {topic}' if topic else 'its topics'}"
            if code == GROUP_FORBIDDEN:
                what = f"READ on the group {self.config.group}"
            text, fix = text.rstrip("."), f"give the user the right to {what}"
        elif code == OFFSET_RESET:
            reason, fix = SourceReason.REPLACED, "reading the topic from the beginning"
        elif code in UNKNOWN_TOPIC:
            reason = SourceReason.MISSING
            if topic:
                return SourceError(f"there is no topic {topic}", reason, server=self.config.display)
        return SourceError(f"{topic}{': ' if topic else ''}{text}", reason, server=self.config.display, fix=fix)

    def translated(self, work: Callable[..., T], *arguments: object) -> T:
        """Run something, with the library's exceptions as SourceErrors. Callbacks of the library need it too: its own
        exceptions leave them as something that is not a BaseException, which ends the thread."""
        try:
            return work(*arguments)
        except KafkaException as error:
            fault = cause(error)
            if fault is not None:
                raise self.error(fault) from None
            text = self.redact(message_of(error))
            raise SourceError(text, SourceReason.OTHER, server=self.config.display) from None

    def _check_connection(self) -> None:
        """Raise SourceError when no broker can be reached, or the library has given up."""
        if self.trouble.fatal is not None:
            text = self.redact(self.trouble.fatal.str())
            raise SourceError(text, SourceReason.OTHER, server=self.config.display)
        if self.trouble.forbidden is not None:
            raise self.error(self.trouble.forbidden)
        if self.trouble.down:
            why = self.trouble.reason or "no broker can be reached"
            raise SourceError(why, SourceReason.DISCONNECTED, server=self.config.display)

    def _leave(self) -> None:
        self._admin = None
        self._clients.close()
        self.consumer.close()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            job()


def _topic(found: Any) -> Topic:
    id_ = found.topic_id
    known = id_.get_most_significant_bits() or id_.get_least_significant_bits()
    partitions = [one.id for one in found.partitions]
    return Topic(id=str(id_) if known else "", partitions=partitions, allowed=found.authorized_operations)


def is_transient(error: Fault) -> bool:
    """Whether the library recovers by itself from an error that came in place of a record."""
    return error.code() == MAX_POLL_EXCEEDED or retriable(error)


@asynccontextmanager
async def consumer_thread(source: str, config: Config, settings: Mapping[str, Any]) -> AsyncIterator[ConsumerThread]:
    """Start a consumer, and close it at the end."""
    consumer = ConsumerThread(source, config, settings)
    try:
        yield consumer
    finally:
        await consumer.close()
