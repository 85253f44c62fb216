"""The topics that the channel writes to: making those that are missing, and looking whether they are as they have to
be."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs do not export them
    AclOperation,
    AdminClient,
    ConfigResource,
)
from confluent_kafka.cimpl import NewTopic

from tocsin.channels.kafka.settings import Config
from tocsin.kafka import FORBIDDEN, NOT_THERE, TOPIC_EXISTS, Log, Words, cause, said

log = structlog.get_logger(__name__)

_ASK_AGAIN = 60.0
"""Seconds after which a topic that was refused is asked for again: a right may have been given meanwhile."""
_MAKING = 3.0
"""Seconds that making topics may take, since writing to them may take the whole `timeout` after it and the dispatcher
waits for hardly longer than that."""
_REFUSED = FORBIDDEN | NOT_THERE | {17, 37, 38, 40, 42, 44}
"""Answers that asking again at once does not change: also the name, the partitions, the copies (fewer brokers than the
cluster's own number of them), the settings, the request, a policy of the cluster."""


@dataclass(slots=True)
class _Failure:
    """Why a topic is not made, in the library's words, and when to ask again."""

    why: str
    right: bool
    again: float
    told: bool = False


class Topics:
    """What the channel knows of its topics."""

    def __init__(self, name: str, config: Config, words: Words, clock: Callable[[], float]) -> None:
        self._name = name
        self._config = config
        self._words = words
        self._clock = clock
        self._there: set[str] = set()
        self._failures: dict[str, _Failure] = {}
        self._admin: AdminClient | None = None
        self._leaving: set[asyncio.Future[None]] = set()

    async def make(self, topics: AbstractSet[str]) -> None:
        """With `create`, make those that are not known to be there. One that is refused may be there all the same, so
        a refusal is told only when nothing can be written."""
        if not self._config.create:
            return
        now = self._clock()
        wanted = sorted(
            topic
            for topic in topics - self._there
            if (failure := self._failures.get(topic)) is None or failure.again <= now
        )
        if not wanted:
            return
        settings = {"cleanup.policy": "compact"} if self._config.state else {}
        new = [NewTopic(topic, self._config.partitions, -1, config=settings) for topic in wanted]
        limit = max(1.0, min(self._config.timeout / 2, _MAKING))
        self._admin = self._admin or self._asking()
        self._admin.poll(0)  # or what it has to say would gather
        for topic, future in self._admin.create_topics(new, request_timeout=limit).items():
            try:
                async with asyncio.timeout(limit + 1):
                    await asyncio.wrap_future(future)
            except (KafkaException, TimeoutError) as error:
                self._failed(topic, error)
            else:
                self._found(topic)
        if not self._failures:
            self._let_go()  # nobody is asked for long

    async def close(self) -> None:
        """Let go of what has asked, and wait for that."""
        self._let_go()
        await asyncio.gather(*self._leaving)

    def missing(self, topic: str) -> str:
        """A broker says that the topic is not there: it is to be made again. Returns what to do about it, for people,
        and logs a refusal once."""
        self._there.discard(topic)
        failure = self._failures.get(topic)
        if not self._config.create:
            return f"there is no topic {topic}; create it, or set `create: true`"
        if failure is None:
            return f"there is no topic {topic}; it is made with the next attempt"
        right = ", or give the user the right to (CREATE on the topic or the cluster)" if failure.right else ""
        told = f"there is no topic {topic}, and it cannot be made: {failure.why.rstrip('.')}; create it{right}"
        if not failure.told:
            failure.told = True
            log.warning(told, channel=self._name)
        return told

    def verify(self, topics: Sequence[str]) -> list[str]:
        """What is wrong with the topics of these names, as sentences. Blocks."""
        with self._asking() as admin:
            return self._problems(admin, topics)

    def _problems(self, admin: AdminClient, topics: Sequence[str]) -> list[str]:
        try:
            present = admin.list_topics(timeout=self._config.timeout).topics
        except KafkaException as error:
            return [f"{self._config.display} does not answer: {self._words(said(error))}"]
        missing = [] if self._config.create else [topic for topic in topics if topic not in present]
        problems = [f"there is no topic {topic}; create it, or set `create: true`" for topic in missing]
        problems += [
            f"the user may not write to the topic {topic}; give the user the right to WRITE on it"
            for topic in topics
            if topic in present and self._refused(admin, topic)
        ]
        if self._config.state:
            problems += [
                f"the topic {topic} is not compacted (cleanup.policy={policy}), as `state` wants it"
                for topic in topics
                if topic in present and "compact" not in (policy := self._policy(admin, topic))
            ]
        return problems

    def _found(self, topic: str) -> None:
        self._there.add(topic)
        self._failures.pop(topic, None)

    def _failed(self, topic: str, error: Exception) -> None:
        fault = cause(error)
        code = fault.code() if fault is not None else None
        if code == TOPIC_EXISTS:
            self._found(topic)
            return
        before = self._failures.get(topic)
        why = self._words(said(error)) or "no broker answers"
        wait = _ASK_AGAIN if code in _REFUSED else 0.0
        told = before is not None and before.told and before.why == why
        self._failures[topic] = _Failure(why, code in FORBIDDEN, self._clock() + wait, told)

    def _refused(self, admin: AdminClient, topic: str) -> bool:
        """Whether the user is known to have no right to write there."""
        asked = admin.describe_topics(
            TopicCollection([topic]), include_authorized_operations=True, request_timeout=self._config.timeout
        )
        try:
            allowed = asked[topic].result(timeout=self._config.timeout).authorized_operations
        except (KafkaException, TimeoutError):
            return False  # brokers of an older version do not say it
        return allowed is not None and AclOperation.WRITE not in allowed

    def _policy(self, admin: AdminClient, topic: str) -> str:
        [future] = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
        try:
            return str(future.result(timeout=self._config.timeout)["cleanup.policy"].value)
        except (KafkaException, TimeoutError):
            return "compact"  # who may write need not be allowed to look: no verdict is no problem

    def _let_go(self) -> None:
        """In a thread: its end waits for those of its own, which may be looking up a name. Left to the garbage
        collector, it could end in one of these, and the process with it."""
        if self._admin is None:
            return
        clients = ExitStack()
        clients.enter_context(self._admin)
        self._admin = None
        leaving = asyncio.ensure_future(asyncio.to_thread(clients.close))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    def _asking(self) -> AdminClient:
        # The log of this one is read by nobody: what goes wrong is in its answers.
        unread: dict[str, Any] = {"logger": Log(self._words, channel=self._name), "error_cb": lambda _: None}
        return AdminClient({**self._config.client_settings(), **unread})
