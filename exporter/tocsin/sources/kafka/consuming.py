"""A consumer of the library with its own thread: every call goes through it, so that none holds the event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager
from functools import partial
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
    NOT_SUPPORTED,
    OFFSET_RESET,
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
RETRY_AFTER = 0.1
"""Seconds before a request is repeated that the brokers could not answer."""


class ConsumerThread:
    """One consumer, used in its own thread only. Its errors are SourceErrors."""

    def __init__(self, source: str, config: Config, settings: Mapping[str, Any]) -> None:
        self.config = config
        self.redact = redactor(config.hidden())
        self.trouble = Trouble(self.redact)
        settings = {
            "fetch.wait.max.ms": 100,
            "session.timeout.ms": 10_000,  # how long no process reads the partitions of one that was killed
            # A broker that stops answering is noticed although its connection stays open.
            "socket.timeout.ms": max(2_000, round(config.progress_timeout * 1000)),
            **config.client_settings(),
            "group.id": config.group,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            **settings,
            "logger": LibraryLog(self.redact, source=source),
            "error_cb": self.trouble.report,
        }
        try:
            self.consumer = Consumer(settings)
        except (KafkaException, ValueError, TypeError) as error:
            text = f"librdkafka refuses the settings: {self.redact(message_of(error))}"
            raise SourceError(text, SourceReason.OTHER) from None
        self._source = source
        self._admin: AdminClient | None = None
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
        """Return a client for what a consumer cannot ask. Raises KafkaException, ValueError, TypeError, RuntimeError
        for its settings."""
        if self._admin is None:
            # Errors are in its answers.
            silent: dict[str, Any] = {"logger": LibraryLog(self.redact, source=self._source), "error_cb": lambda _: 0}
            # Left to the garbage collector, it could end in a thread of the library, and the process with it.
            self._admin = self._clients.enter_context(AdminClient({**self.config.client_settings(), **silent}))
        self._admin.poll(0)  # otherwise its events would pile up
        return self._admin

    async def topic_ids(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the ids of topics, empty where the brokers have none. A recreated topic has another id. Raises
        SourceError."""
        limit, deadline = self.config.connect_timeout, Deadline(self.config.connect_timeout)
        found: dict[str, str] = {}
        while left := [topic for topic in topics if topic not in found]:
            for topic, answer in self._described(left).items():
                try:
                    async with asyncio.timeout(limit + 1):
                        id_ = (await asyncio.wrap_future(answer)).topic_id
                    known = id_.get_most_significant_bits() or id_.get_least_significant_bits()
                    found[topic] = str(id_) if known else ""
                except (KafkaException, TimeoutError) as error:
                    fault = cause(error)
                    if deadline.allows(fault):
                        await asyncio.sleep(RETRY_AFTER)
                    elif fault is not None and fault.code() in NOT_SUPPORTED:
                        found[topic] = ""
                    else:
                        raise self._not_described(topic, fault) from None
        return found

    async def recreated(self, ids: Mapping[str, str]) -> list[str]:
        """Return the topics that have another id now; none while no broker answers, which the reader reports. The
        library reads on in a recreated topic as if it were the old one. Raises SourceError for other faults."""
        try:
            now = await self.topic_ids(list(ids))
        except SourceError as error:
            if error.reason is SourceReason.OTHER:
                raise
            return []
        return [topic for topic, id_ in ids.items() if id_ and now[topic] and now[topic] != id_]

    def _described(self, topics: Sequence[str]) -> dict[str, "Future[Any]"]:
        try:
            return self.admin().describe_topics(
                TopicCollection(list(topics)), request_timeout=self.config.connect_timeout
            )
        except (KafkaException, ValueError, TypeError, RuntimeError) as error:
            text = f"{self.config.display}: cannot describe topics: {self.redact(message_of(error))}"
            raise SourceError(text, SourceReason.OTHER) from None

    def _not_described(self, topic: str, fault: Fault | None) -> SourceError:
        if fault is None:
            return SourceError(f"{self.config.display}: no answer about {topic}", SourceReason.CONNECT)
        return self._no_topic(topic) if fault.code() in UNKNOWN_TOPIC else self.error(fault, topic)

    def _end(self, closing: asyncio.Future[None]) -> None:
        self._work.put(None)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.debug("the consumer is not closed", error=str(error))

    # In the thread.

    def retried(self, request: Callable[[], T]) -> T:
        """Make a request, and repeat it while the brokers cannot answer it, at most for `connect_timeout`. Raises
        KafkaException."""
        deadline = Deadline(self.config.connect_timeout)
        while True:
            try:
                return request()
            except KafkaException as error:
                if not deadline.allows(cause(error)):
                    raise
            time.sleep(RETRY_AFTER)

    def ends(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the offsets of the first record of a partition and of the next one to come. Raises KafkaException, and
        SourceError where no broker answers."""
        place, limit = TopicPartition(topic, partition), self.config.connect_timeout
        ends = self.retried(partial(self.consumer.get_watermark_offsets, place, timeout=limit))
        if ends is None:
            raise SourceError(f"{self.config.display}: no answer about {topic}", SourceReason.CONNECT)
        return ends

    def partitions(self, topics: Sequence[str]) -> dict[str, list[int]]:
        """Return the partitions of topics. Raises SourceError where one does not exist."""
        found = self._listed(topics)
        for topic in topics:
            if (error := self._unusable(topic, found)) is not None:
                raise error
        return {topic: sorted(found[topic].partitions) for topic in topics}

    def missing(self, topics: Sequence[str]) -> list[SourceError]:
        """Return errors about topics that do not exist or may not be read. Raises SourceError where no broker
        answers."""
        found = self._listed(topics)
        return [error for topic in topics if (error := self._unusable(topic, found)) is not None]

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
        text = self.redact(fault.str().partition(" (after ")[0])
        where, code = f"{self.config.display}: {topic}{': ' if topic else ''}{text}", fault.code()
        if code in FORBIDDEN - LOGIN_REFUSED:
            what = f"{right} on {f'the topic {topic}' if topic else 'its topics'}"
            if code == GROUP_FORBIDDEN:
                what = f"READ on the group {self.config.group}"
            return SourceError(f"{where.rstrip('.')}; give the user the right to {what}", SourceReason.PERMISSION)
        if code == OFFSET_RESET:
            return SourceError(f"{where}; reading the topic from the beginning", SourceReason.REPLACED)
        if code in UNKNOWN_TOPIC:
            return SourceError(where, SourceReason.MISSING)
        return SourceError(where, SourceReason.AUTH if code in LOGIN_REFUSED else SourceReason.DISCONNECTED)

    def translated(self, work: Callable[..., T], *arguments: object) -> T:
        """Run something, with the library's exceptions as SourceErrors. Callbacks of the library need it too: its own
        exceptions leave them as something that is not a BaseException, which ends the thread."""
        try:
            return work(*arguments)
        except KafkaException as error:
            fault = cause(error)
            if fault is not None:
                raise self.error(fault) from None
            text = f"{self.config.display}: {self.redact(message_of(error))}"
            raise SourceError(text, SourceReason.OTHER) from None

    def _listed(self, wanted: Sequence[str]) -> Mapping[str, Any]:
        """Return all topics that the user may see. A topic that was just created may have no leader yet: repeats the
        request for the `wanted` ones, as `retried` does."""
        deadline = Deadline(self.config.connect_timeout)
        while True:
            try:
                found: Mapping[str, Any] = self.consumer.list_topics(timeout=self.config.connect_timeout).topics
            except KafkaException as error:
                if not deadline.allows(cause(error)):
                    raise self._unreachable(error) from None
            else:
                if not any(deadline.allows(found[topic].error) for topic in wanted if topic in found):
                    return found
            time.sleep(RETRY_AFTER)

    def _unusable(self, topic: str, found: Mapping[str, Any]) -> SourceError | None:
        if topic not in found:
            return self._no_topic(topic)
        fault = found[topic].error
        return None if fault is None else self.error(fault, topic)

    def _no_topic(self, topic: str) -> SourceError:
        text = f"{self.config.display}: there is no topic {topic}, or the user may not see it"
        return SourceError(text, SourceReason.MISSING)

    def _unreachable(self, error: Exception) -> SourceError:
        self.consumer.poll(0)  # the library reports the reason now
        fault = self.trouble.forbidden or cause(error)
        if fault is not None and fault.code() in FORBIDDEN:
            return self.error(fault)
        reason = self.trouble.reason or self.redact(message_of(error))
        return SourceError(f"{self.config.display}: {reason}", SourceReason.CONNECT)

    def _check_connection(self) -> None:
        """Raise SourceError when no broker can be reached, or the library has given up."""
        if self.trouble.fatal is not None:
            raise SourceError(f"{self.config.display}: {self.redact(self.trouble.fatal.str())}", SourceReason.OTHER)
        if self.trouble.forbidden is not None:
            raise self.error(self.trouble.forbidden)
        if self.trouble.down:
            why = self.trouble.reason or "no broker can be reached"
            raise SourceError(f"{self.config.display}: {why}", SourceReason.DISCONNECTED)

    def _leave(self) -> None:
        self._admin = None
        self._clients.close()
        self.consumer.close()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            job()


class Deadline:
    """How long a request is repeated. `seconds`: from now on."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until = now() + seconds

    def allows(self, error: Fault | None) -> bool:
        """Whether to repeat the request after this error."""
        return error is not None and retriable(error) and self._now() < self._until


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
