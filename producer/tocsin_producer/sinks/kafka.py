"""Events into Kafka. Imported only when used, since it needs the extra `kafka`.

The producer is idempotent: a repeat after a lost acknowledgement is stored once, and the order of a key holds, so that
a spike of ten is ten. While the broker is away, events wait in memory without a time limit; when the memory for them is
full, `send` waits.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tocsin_producer.errors import EventRefusedError, SinkError
from tocsin_producer.metrics import Metrics

try:
    from confluent_kafka import KafkaError, KafkaException, Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic
except ImportError:
    raise SinkError(
        "the kafka sink needs confluent-kafka; install it with: pip install 'tocsin-producer[kafka]'"
    ) from None

if TYPE_CHECKING:
    from confluent_kafka import Message

REMIND_EVERY = 30.0
"""Seconds between two log lines while the broker is away."""

_STEP = 0.2  # seconds; how long a call into the library may delay a stop
_METADATA_TIMEOUT = 2.0
_REQUEST_TIMEOUT = 5.0

_log = logging.getLogger(__name__)

# An underscore marks the library's own codes, as opposed to a broker's; they are public.
_INVALID_ARG = KafkaError._INVALID_ARG  # noqa: SLF001
_PURGED = KafkaError._PURGE_QUEUE  # noqa: SLF001
_ALL_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
_FINAL = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, _INVALID_ARG})


class KafkaSink:
    """See `tocsin_producer.sinks.Sink`."""

    def __init__(
        self,
        brokers: str,
        *,
        metrics: Metrics,
        monotonic: Callable[[], float],
        stopped: Callable[[], bool] = lambda: False,
        config: Mapping[str, str] | None = None,
        close_timeout: float = 10.0,
    ) -> None:
        """`brokers`: `host:port`, several with commas. `metrics`: counts deliveries and failures as the broker reports
        them. `monotonic`: seconds on a clock that never goes back. `stopped`: whether the run ends; a `send` or
        `prepare` that waits for the broker then gives up. `config`: more settings of librdkafka, such as
        `security.protocol`; they win over the sink's own. `close_timeout`: seconds for acknowledgements at the end.

        Raises SinkError if confluent-kafka does not accept the settings.
        """
        self._brokers = brokers
        self._metrics = metrics
        self._monotonic = monotonic
        self._stopped = stopped
        self._close_timeout = close_timeout
        self._connection: dict[str, str | int | float | bool] = {
            "bootstrap.servers": brokers,
            "client.id": "tocsin-producer",
            # The library's own log repeats what the callbacks report, in words for its developers.
            "log_level": 2,
            **(config or {}),
        }
        self._away_since: float | None = None
        self._remind_at = float("-inf")
        self._reason = ""
        self._logged: set[str] = set()
        self._fatal: str | None = None
        settings = {
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # none: the broker may be away for any time
            "linger.ms": 5,
            **self._connection,
            "error_cb": self._on_error,
        }
        try:
            self._producer = Producer(settings)
        except (KafkaException, ValueError, TypeError) as error:
            raise SinkError(f"Kafka settings are not accepted: {_reason(error)}") from None

    def prepare(self, topics: Sequence[str], *, partitions: int = 1, timeout: float = 15.0) -> None:
        """Wait until the broker answers, and create missing topics: Materialize refuses a source on a missing topic.

        A broker that has just started answers before it can create topics, so a refused topic is retried. After
        `timeout` seconds a warning is logged, no more: the broker may create topics on first use.
        """
        with AdminClient(self._connection) as admin:
            present = self._present(admin)
            missing = [] if present is None else [topic for topic in topics if topic not in present]
            deadline = self._monotonic() + timeout
            while missing and not self._stopped():
                refused = self._refused(admin, missing, partitions, min(timeout, _REQUEST_TIMEOUT))
                missing = list(refused)
                if self._monotonic() >= deadline:
                    for topic, reason in refused.items():
                        _log.warning("cannot create the topic %s: %s; going on without it", topic, reason)
                    return
                if missing:
                    self._producer.poll(_STEP)

    @staticmethod
    def _refused(admin: AdminClient, topics: Sequence[str], partitions: int, timeout: float) -> dict[str, str]:
        """Try to create topics. Returns those that are still missing, with the reasons."""
        new = [NewTopic(topic, num_partitions=partitions, replication_factor=-1) for topic in topics]
        refused = {}
        for topic, future in admin.create_topics(new, request_timeout=timeout).items():
            try:
                future.result(timeout=2 * timeout)
            except (KafkaException, TimeoutError) as error:
                if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                    refused[topic] = _reason(error) or "no answer"
        return refused

    def _present(self, admin: AdminClient) -> set[str] | None:
        """The existing topics, as soon as the broker answers; None if the run is stopped before."""
        while not self._stopped():
            try:
                topics = set(admin.list_topics(timeout=_METADATA_TIMEOUT).topics)
            except KafkaException as error:
                self._producer.poll(0)  # the error callback knows the reason better than "timed out" does
                self._away(self._reason or _reason(error))
            else:
                self._back()
                return topics
        return None

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:
        while True:
            self._check()
            try:
                self._producer.produce(topic, key=key, value=value, on_delivery=self._on_delivery)
            except BufferError:
                if self._stopped():
                    raise EventRefusedError("no room, and the run is ending") from None
                self._producer.poll(_STEP)
            except KafkaException as error:
                if _code(error) in _FINAL:
                    raise EventRefusedError(_reason(error)) from None
                raise SinkError(f"Kafka at {self._brokers}: {_reason(error)}") from None
            else:
                self._producer.poll(0)
                return

    def flush(self) -> None:
        self._producer.poll(0)
        self._check()

    def close(self) -> None:
        deadline = self._monotonic() + self._close_timeout
        while len(self._producer) and (left := deadline - self._monotonic()) > 0:
            self._producer.flush(min(left, _STEP))
        if lost := len(self._producer):
            self._producer.purge()
            self._producer.flush(_STEP)
            raise SinkError(
                f"{lost} events were not delivered: Kafka at {self._brokers} did not accept them within "
                f"{self._close_timeout:g} s ({self._reason or 'no answer'})"
            )
        self._check()

    def _check(self) -> None:
        if self._fatal is not None:
            raise SinkError(f"Kafka at {self._brokers}: {self._fatal}")

    def _on_delivery(self, error: "KafkaError | None", message: "Message") -> None:
        topic = message.topic() or ""
        if error is None:
            self._metrics.delivered[topic] += 1
            self._back()
            return
        self._metrics.errors[topic] += 1
        text = f"an event for {topic} was not delivered: {error.str()}"
        if text not in self._logged and error.code() != _PURGED:
            self._logged.add(text)  # once; the metrics have the number
            _log.warning("%s", text)

    def _on_error(self, error: "KafkaError") -> None:
        if error.fatal():
            self._fatal = error.str()
        elif error.code() == _ALL_DOWN:
            self._away(self._reason or "no answer")
        else:
            # Comes before "all brokers down" with the reason: refused, no such host, login failed.
            self._reason = error.str().partition(" (after ")[0]

    def _away(self, reason: str) -> None:
        now = self._monotonic()
        self._reason = reason
        self._away_since = now if self._away_since is None else self._away_since
        if now >= self._remind_at:
            self._remind_at = now + REMIND_EVERY
            text = "Kafka at %s cannot be reached (%s); retrying, %d events waiting, %.0f s so far"
            _log.warning(text, self._brokers, reason, len(self._producer), now - self._away_since)

    def _back(self) -> None:
        if self._away_since is not None:
            _log.info("Kafka at %s is back after %.0f s", self._brokers, self._monotonic() - self._away_since)
            self._away_since, self._remind_at = None, float("-inf")


def _code(error: Exception) -> int | None:
    return int(error.args[0].code()) if isinstance(error, KafkaException) else None


def _reason(error: Exception) -> str:
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause)
