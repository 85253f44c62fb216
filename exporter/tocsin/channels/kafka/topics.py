"""The topics that the channel writes to: creates missing ones, and checks them."""

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs do not export them
    AclOperation,
    AdminClient,
    ConfigResource,
)
from confluent_kafka.cimpl import NewTopic

from tocsin.channels.kafka.settings import Config
from tocsin.kafka import FORBIDDEN, NOT_SUPPORTED, TOPIC_EXISTS, LibraryLog, Redact, cause, message_of

log = structlog.get_logger(__name__)

_RETRY_AFTER = 60.0
"""Seconds after which a refused topic is requested again: the right may have been granted."""
_CREATE_TIMEOUT = 3.0
"""Seconds for creating topics: writing to them may then take the whole `timeout`, and the dispatcher waits for hardly
longer."""
_REFUSED = FORBIDDEN | NOT_SUPPORTED | {17, 37, 38, 40, 42, 44}
"""Answers that do not change soon. The numbers: the name, the partitions, the replicas (fewer brokers than the default
replication factor), the settings, the request, a policy of the cluster."""


class _Failure(NamedTuple):
    """Why a topic was not created, in the library's words, and when to try again."""

    why: str
    right: bool
    again: float


class Topics:
    """The topics known to the channel."""

    def __init__(self, name: str, config: Config, redact: Redact, clock: Callable[[], float]) -> None:
        self._name = name
        self._config = config
        self._redact = redact
        self._clock = clock
        self._existing: set[str] = set()
        self._failures: dict[str, _Failure] = {}
        self._logged: set[str] = set()

    async def create(self, topics: AbstractSet[str]) -> None:
        """With `create`, create topics that are not known to exist. A refused one may exist all the same, so a refusal
        is reported only when writing fails."""
        if not self._config.create:
            return
        now = self._clock()
        waiting = {topic for topic, failure in self._failures.items() if failure.again > now}
        if wanted := topics - self._existing - waiting:
            await asyncio.to_thread(self._create, sorted(wanted))

    def _create(self, topics: Sequence[str]) -> None:
        settings = {"cleanup.policy": "compact"} if self._config.state else {}
        new = [NewTopic(topic, self._config.partitions, -1, config=settings) for topic in topics]
        limit = max(1.0, min(self._config.timeout / 2, _CREATE_TIMEOUT))
        with self._client() as admin:
            for topic, future in admin.create_topics(new, request_timeout=limit).items():
                try:
                    future.result(timeout=limit + 1)
                except (KafkaException, TimeoutError) as error:
                    fault = cause(error)
                    code = None if fault is None else fault.code()
                    if code != TOPIC_EXISTS:
                        why = self._redact(message_of(error)) or "no broker answers"
                        wait = _RETRY_AFTER if code in _REFUSED else 0.0
                        self._failures[topic] = _Failure(why, code in FORBIDDEN, self._clock() + wait)
                        continue
                self._existing.add(topic)
                self._failures.pop(topic, None)

    def missing(self, topic: str) -> str:
        """Note that a topic does not exist, so it is created again. Returns what to do about it; logs a refusal
        once."""
        self._existing.discard(topic)
        failure = self._failures.get(topic)
        if not self._config.create:
            return f"there is no topic {topic}; create it, or set `create: true`"
        if failure is None:
            return f"there is no topic {topic}; the next attempt creates it"
        right = ", or give the user the right to (CREATE on the topic or the cluster)" if failure.right else ""
        text = f"there is no topic {topic}, and it cannot be created: {failure.why.rstrip('.')}; create it{right}"
        if text not in self._logged:
            self._logged.add(text)
            log.warning(text, channel=self._name)
        return text

    def verify(self, topics: Sequence[str]) -> list[str]:
        """Return what is wrong with topics, as sentences. Blocks."""
        with self._client() as admin:
            return self._problems(admin, topics)

    def _problems(self, admin: AdminClient, topics: Sequence[str]) -> list[str]:
        try:
            present = admin.list_topics(timeout=self._config.timeout).topics
        except KafkaException as error:
            return [f"{self._config.display} does not answer: {self._redact(message_of(error))}"]
        missing = [] if self._config.create else [topic for topic in topics if topic not in present]
        problems = [f"there is no topic {topic}; create it, or set `create: true`" for topic in missing]
        problems += [
            f"the user may not write to the topic {topic}; give the user the right to WRITE on it"
            for topic in topics
            if topic in present and self._refused(admin, topic)
        ]
        if self._config.state:
            problems += [
                f"the topic {topic} is not compacted (cleanup.policy={policy}), as `state` needs it"
                for topic in topics
                if topic in present and "compact" not in (policy := self._policy(admin, topic))
            ]
        return problems

    def _refused(self, admin: AdminClient, topic: str) -> bool:
        """Whether the user is known to lack the right to write."""
        asked = admin.describe_topics(
            TopicCollection([topic]), include_authorized_operations=True, request_timeout=self._config.timeout
        )
        try:
            allowed = asked[topic].result(timeout=self._config.timeout).authorized_operations
        except (KafkaException, TimeoutError):
            return False  # older brokers do not report it
        return allowed is not None and AclOperation.WRITE not in allowed

    def _policy(self, admin: AdminClient, topic: str) -> str:
        [future] = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
        try:
            return str(future.result(timeout=self._config.timeout)["cleanup.policy"].value)
        except (KafkaException, TimeoutError):
            return "compact"  # a user who may write need not be allowed to read the configuration

    def _client(self) -> AdminClient:
        """A client to be closed in a thread: closing waits for the library's threads, which may resolve a name. Left to
        the garbage collector, it could end in one of those, and the process with it."""
        # Errors are in its answers.
        silent: dict[str, Any] = {"logger": LibraryLog(self._redact, channel=self._name), "error_cb": lambda _: None}
        return AdminClient({**self._config.client_settings(), **silent})
