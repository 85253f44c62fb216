"""A consumer of the library with its one thread: every call goes through it, so that none holds the event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import structlog
from confluent_kafka import Consumer, KafkaException, Message

from tocsin.channels.base import redactor
from tocsin.errors import SourceError, SourceReason
from tocsin.kafka import FORBIDDEN, MAX_POLL_EXCEEDED, OFFSET_RESET, UNKNOWN_TOPIC, Fault, Log, Trouble, cause, said
from tocsin.sources.kafka.settings import Config

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST = 1000
"""Records in one batch."""
_WAIT = 0.2
"""Seconds that one call waits for a record, and so the longest that closing waits for the thread."""
_CLOSING = 5.0


class Consuming:
    """One consumer, which is used in its own thread only; what it raises are SourceErrors."""

    def __init__(self, source: str, config: Config, settings: Mapping[str, Any]) -> None:
        self.config = config
        self.words = redactor(config.hidden())
        self.trouble = Trouble(self.words)
        settings = {
            "fetch.wait.max.ms": 100,
            "session.timeout.ms": 10_000,  # so long the partitions of a process that was killed belong to nobody
            # A broker that has stopped answering is noticed, whatever keeps its connection open.
            "socket.timeout.ms": max(2_000, round(config.progress_timeout * 1000)),
            **config.client_settings(),
            "group.id": config.group,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            **settings,
            "logger": Log(self.words, source=source),
            "error_cb": self.trouble.report,
        }
        try:
            self.consumer = Consumer(settings)
        except (KafkaException, ValueError, TypeError) as error:
            raise SourceError(
                f"librdkafka does not take the settings: {self.words(said(error))}", SourceReason.OTHER
            ) from None

        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Not one of an executor's: the end of the process would wait for it, and so for a broker that is silent.
        threading.Thread(target=self._run, name=f"kafka source {source}", daemon=True).start()

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Do this in the thread."""
        done: Future[T] = Future()

        def job() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(self._translated(work, *arguments))
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                    done.set_exception(error)

        self._work.put(job)
        return await asyncio.wrap_future(done)

    async def close(self) -> None:
        """Leave the group, and wait for that, though not for ever."""
        closing = asyncio.ensure_future(self.call(self.consumer.close))
        closing.add_done_callback(self._end)
        await asyncio.wait({closing}, timeout=_CLOSING)

    def partitions(self, topics: Sequence[str]) -> dict[str, list[int]]:
        """The partitions of the topics. Raises SourceError where one is not there. To be called in the thread."""
        try:
            found = self.consumer.list_topics(timeout=self.config.connect_timeout).topics
        except KafkaException as error:
            raise self.unreachable(error) from None
        for topic in topics:
            self.check_topic(topic, found.get(topic))
        return {topic: sorted(found[topic].partitions) for topic in topics}

    def check_topic(self, topic: str, metadata: Any) -> None:
        """Raises SourceError for a topic that is not there, or that may not be read."""
        if metadata is None:
            raise self.missing(topic)
        if metadata.error is not None:
            raise self.failed(metadata.error)

    def records(self, wait: float = _WAIT) -> list[Message]:
        """What has come, at once, or the first that comes within `wait`. To be called in the thread."""
        first = self.consumer.poll(wait)
        self._check()
        if first is None:
            return []
        self.trouble.over()
        return [first, *self.consumer.consume(MOST - 1, 0)]

    def missing(self, topic: str) -> SourceError:
        """The topic is not there."""
        return SourceError(
            f"{self.config.display}: there is no topic {topic}, or the user may not see it", SourceReason.MISSING
        )

    def failed(self, error: Fault, about: str = "") -> SourceError:
        """The error that came in place of a record, or in an answer."""
        text = self.words(error.str())
        where = f"{self.config.display}: {about}{': ' if about else ''}{text}"
        if error.code() in UNKNOWN_TOPIC:
            return SourceError(where, SourceReason.MISSING)
        if error.code() in FORBIDDEN:
            login = error.code() in (-169, 58)
            return SourceError(where, SourceReason.AUTH if login else SourceReason.PERMISSION)
        if error.code() == OFFSET_RESET:
            return SourceError(f"{where}; reading the topic afresh", SourceReason.REPLACED)
        return SourceError(where, SourceReason.DISCONNECTED)

    def unreachable(self, error: Exception) -> SourceError:
        """No broker gave an answer. To be called in the thread."""
        self.consumer.poll(0)  # which is when the library says why
        if self.trouble.forbidden:
            return SourceError(f"{self.config.display}: {self.trouble.reason}", SourceReason.AUTH)
        fault = cause(error)
        if fault is not None and fault.code() in FORBIDDEN:
            return self.failed(fault)
        return SourceError(
            f"{self.config.display}: {self.trouble.reason or self.words(said(error))}", SourceReason.CONNECT
        )

    def _check(self) -> None:
        """Raises SourceError once no broker can be reached, or the library has given up."""
        if self.trouble.fatal is not None:
            raise SourceError(f"{self.config.display}: {self.trouble.fatal}", SourceReason.OTHER)
        if self.trouble.forbidden:
            raise SourceError(f"{self.config.display}: {self.trouble.reason}", SourceReason.AUTH)
        if self.trouble.down:
            why = self.trouble.reason or "no broker can be reached"
            raise SourceError(f"{self.config.display}: {why}", SourceReason.DISCONNECTED)

    def _end(self, closing: asyncio.Future[None]) -> None:
        self._work.put(None)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.debug("the consumer is not closed", error=str(error))

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            job()

    def _translated(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return work(*arguments)
        except KafkaException as error:
            fault = cause(error)
            if fault is not None:
                raise self.failed(fault) from None
            raise SourceError(f"{self.config.display}: {self.words(said(error))}", SourceReason.OTHER) from None


def passing(error: Fault) -> bool:
    """Whether an error that came in place of a record is no reason to stop: the library goes on by itself."""
    return error.code() == MAX_POLL_EXCEEDED


@asynccontextmanager
async def consuming(source: str, config: Config, settings: Mapping[str, Any]) -> AsyncIterator[Consuming]:
    """A consumer, which is gone afterwards."""
    made = Consuming(source, config, settings)
    try:
        yield made
    finally:
        await made.close()
