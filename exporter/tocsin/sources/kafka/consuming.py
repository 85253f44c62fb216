"""A consumer of the library with its one thread: every call goes through it, so that none holds the event loop."""

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
    NOT_THERE,
    OFFSET_RESET,
    UNKNOWN_TOPIC,
    Fault,
    Log,
    Trouble,
    cause,
    retriable,
    said,
)
from tocsin.redaction import redactor
from tocsin.sources.kafka.settings import Config

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST = 1000
"""Records in one batch."""
_WAIT = 0.2
"""Seconds that one call waits for a record, and so the longest that closing waits for the thread."""
_CLOSING = 5.0
AGAIN = 0.1
"""Seconds before a question is repeated that the brokers could not answer just then."""


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

        self._source = source
        self._admin: AdminClient | None = None
        self._clients = ExitStack()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Not one of an executor's: the end of the process would wait for it, and so for a broker that is silent.
        threading.Thread(target=self._run, name=f"kafka source {source}", daemon=True).start()

    async def call(self, work: Callable[..., T], *arguments: object) -> T:
        """Do this in the thread."""
        done: Future[T] = Future()

        def job() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(self.translated(work, *arguments))
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                    done.set_exception(error)

        self._work.put(job)
        return await asyncio.wrap_future(done)

    async def close(self) -> None:
        """Leave the group, and wait for that, though not for ever."""
        closing = asyncio.ensure_future(self.call(self._leave))
        closing.add_done_callback(self._end)
        await asyncio.wait({closing}, timeout=_CLOSING)

    def asked(self, question: Callable[[], T]) -> T:
        """The answer to a question. The question is repeated while the brokers cannot answer it just now, at most for
        `connect_timeout`. Raises KafkaException. To be called in the thread."""
        patience = Patience(self.config.connect_timeout)
        while True:
            try:
                return question()
            except KafkaException as error:
                if not patience.lasts(cause(error)):
                    raise
            time.sleep(AGAIN)

    def ends(self, topic: str, partition: int) -> tuple[int, int]:
        """The offsets of the first record of a partition and of the one that comes next. Raises KafkaException, and
        SourceError where no one answers. To be called in the thread."""
        limit = self.config.connect_timeout
        place = TopicPartition(topic, partition)
        ends = self.asked(partial(self.consumer.get_watermark_offsets, place, timeout=limit))
        if ends is None:
            raise SourceError(f"{self.config.display}: no answer about {topic}", SourceReason.CONNECT)
        return ends

    def partitions(self, topics: Sequence[str]) -> dict[str, list[int]]:
        """The partitions of the topics. Raises SourceError where one is not there. To be called in the thread."""
        found = self._found(topics)
        for topic in topics:
            if (lacking := self._lacking(topic, found)) is not None:
                raise lacking
        return {topic: sorted(found[topic].partitions) for topic in topics}

    def lacking(self, topics: Sequence[str]) -> list[SourceError]:
        """What is told of the topics that are not there, or may not be read. Raises SourceError where nobody answers.
        To be called in the thread."""
        found = self._found(topics)
        return [told for topic in topics if (told := self._lacking(topic, found)) is not None]

    async def identities(self, topics: Sequence[str]) -> dict[str, str]:
        """What tells each topic from one of the same name that was there before it: Kafka's id of the topic, empty
        where the brokers have none. Raises SourceError. To be called on the event loop."""
        limit, patience = self.config.connect_timeout, Patience(self.config.connect_timeout)
        found: dict[str, str] = {}
        while left := [topic for topic in topics if topic not in found]:
            for topic, answer in self._descriptions(left).items():
                try:
                    async with asyncio.timeout(limit + 1):
                        id_ = (await asyncio.wrap_future(answer)).topic_id
                    known = id_.get_most_significant_bits() or id_.get_least_significant_bits()
                    found[topic] = str(id_) if known else ""
                except (KafkaException, TimeoutError) as error:
                    fault = cause(error)
                    if patience.lasts(fault):
                        await asyncio.sleep(AGAIN)
                        continue
                    if fault is None or fault.code() not in NOT_THERE:
                        raise self._undescribed(topic, fault) from None
                    found[topic] = ""
        return found

    def _descriptions(self, topics: Sequence[str]) -> dict[str, "Future[Any]"]:
        """Ask for the descriptions of topics. Raises SourceError."""
        try:
            described = self.admin().describe_topics(
                TopicCollection(list(topics)), request_timeout=self.config.connect_timeout
            )
        except (KafkaException, ValueError, TypeError, RuntimeError) as error:
            text = self.words(said(error))
            raise SourceError(
                f"{self.config.display}: its topics cannot be asked for: {text}", SourceReason.OTHER
            ) from None
        return described

    def admin(self) -> AdminClient:
        """What asks for more than a consumer can. Raises KafkaException, ValueError, TypeError, RuntimeError for its
        settings. To be called on the event loop."""
        if self._admin is None:
            # What goes wrong is in its answers.
            unread: dict[str, Any] = {"logger": Log(self.words, source=self._source), "error_cb": lambda _: None}
            # Left to the garbage collector, it could end in a thread of the library, and the process with it.
            self._admin = self._clients.enter_context(AdminClient({**self.config.client_settings(), **unread}))
        self._admin.poll(0)  # or what it has to say would gather
        return self._admin

    async def anew(self, before: Mapping[str, str]) -> list[str]:
        """The topics that are not those any more whose identities these are: the library goes on in one that was made
        anew as if it were. None where nobody answers, for whoever reads has that to tell. Raises SourceError where it
        is not the brokers that fail. To be called on the event loop."""
        try:
            now = await self.identities(list(before))
        except SourceError as error:
            if error.reason is SourceReason.OTHER:
                raise
            return []
        return [topic for topic, identity in before.items() if identity and now[topic] and now[topic] != identity]

    def records(self, wait: float = _WAIT) -> list[Message]:
        """What has come, at once, or the first that comes within `wait`. To be called in the thread."""
        first = self.consumer.poll(wait)
        self._check()
        if first is None:
            return []
        self.trouble.over()
        return [first, *self.consumer.consume(MOST - 1, 0)]

    def failed(self, error: Fault, topic: str = "", right: str = "READ and DESCRIBE") -> SourceError:
        """The error that came in place of a record, or in an answer. `right`: what was wanted of the topic."""
        text = self.words(error.str().partition(" (after ")[0])
        where = f"{self.config.display}: {topic}{': ' if topic else ''}{text}"
        if error.code() in UNKNOWN_TOPIC:
            return SourceError(where, SourceReason.MISSING)
        if error.code() in LOGIN_REFUSED:
            return SourceError(where, SourceReason.AUTH)
        if error.code() in FORBIDDEN:
            what = f"{right} on {f'the topic {topic}' if topic else 'its topics'}"
            if error.code() == GROUP_FORBIDDEN:
                what = f"READ on the group {self.config.group}"
            return SourceError(f"{where.rstrip('.')}; give the user the right to {what}", SourceReason.PERMISSION)
        if error.code() == OFFSET_RESET:
            return SourceError(f"{where}; reading the topic afresh", SourceReason.REPLACED)
        return SourceError(where, SourceReason.DISCONNECTED)

    def unreachable(self, error: Exception) -> SourceError:
        """No broker gave an answer. To be called in the thread."""
        self.consumer.poll(0)  # which is when the library says why
        fault = self.trouble.forbidden or cause(error)
        if fault is not None and fault.code() in FORBIDDEN:
            return self.failed(fault)
        return SourceError(
            f"{self.config.display}: {self.trouble.reason or self.words(said(error))}", SourceReason.CONNECT
        )

    def _found(self, wanted: Sequence[str]) -> Mapping[str, Any]:
        """All topics that the user may see, asked for at once. A topic that was just created may have no leader yet:
        for those that are wanted it waits, as `asked` does."""
        patience = Patience(self.config.connect_timeout)
        while True:
            try:
                found: Mapping[str, Any] = self.consumer.list_topics(timeout=self.config.connect_timeout).topics
            except KafkaException as error:
                fault = cause(error)
                if not patience.lasts(fault):
                    raise self.unreachable(error) from None
            else:
                errors = [found[topic].error for topic in wanted if topic in found]
                if not any(patience.lasts(error) for error in errors):
                    return found
            time.sleep(AGAIN)

    def _lacking(self, topic: str, found: Mapping[str, Any]) -> SourceError | None:
        if topic not in found:
            return self._missing(topic)
        error = found[topic].error
        return None if error is None else self.failed(error, topic)

    def _missing(self, topic: str) -> SourceError:
        return SourceError(
            f"{self.config.display}: there is no topic {topic}, or the user may not see it", SourceReason.MISSING
        )

    def _undescribed(self, topic: str, fault: Fault | None) -> SourceError:
        if fault is None:
            return SourceError(f"{self.config.display}: no answer about {topic}", SourceReason.CONNECT)
        return self._missing(topic) if fault.code() in UNKNOWN_TOPIC else self.failed(fault, topic)

    def _check(self) -> None:
        """Raises SourceError once no broker can be reached, or the library has given up."""
        if self.trouble.fatal is not None:
            raise SourceError(f"{self.config.display}: {self.words(self.trouble.fatal.str())}", SourceReason.OTHER)
        if self.trouble.forbidden is not None:
            raise self.failed(self.trouble.forbidden)
        if self.trouble.down:
            why = self.trouble.reason or "no broker can be reached"
            raise SourceError(f"{self.config.display}: {why}", SourceReason.DISCONNECTED)

    def _leave(self) -> None:
        self._admin = None
        self._clients.close()
        self.consumer.close()

    def _end(self, closing: asyncio.Future[None]) -> None:
        self._work.put(None)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.debug("the consumer is not closed", error=str(error))

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            job()

    def translated(self, work: Callable[..., T], *arguments: object) -> T:
        """Do this, with the library's exceptions as SourceErrors. In what the library calls it has to be done there:
        its own exceptions come out of a callback as something that is not even a BaseException, which ends the
        thread. To be called in the thread."""
        try:
            return work(*arguments)
        except KafkaException as error:
            fault = cause(error)
            if fault is not None:
                raise self.failed(fault) from None
            raise SourceError(f"{self.config.display}: {self.words(said(error))}", SourceReason.OTHER) from None


class Patience:
    """How long a question is repeated. `seconds`: from now on."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until = now() + seconds

    def lasts(self, error: Fault | None) -> bool:
        """Whether to ask again after this error."""
        return error is not None and retriable(error) and self._now() < self._until


def passing(error: Fault) -> bool:
    """Whether an error that came in place of a record is no reason to stop: the library goes on by itself."""
    return error.code() == MAX_POLL_EXCEEDED or retriable(error)


@asynccontextmanager
async def consuming(source: str, config: Config, settings: Mapping[str, Any]) -> AsyncIterator[Consuming]:
    """A consumer, which is gone afterwards."""
    made = Consuming(source, config, settings)
    try:
        yield made
    finally:
        await made.close()
