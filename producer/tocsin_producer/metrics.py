"""The producer's metrics, and the page that serves them."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tocsin_producer.errors import ProducerError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Metrics:
    """Counters since the start. One thread writes; any may read, and sees each counter whole."""

    sent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Events passed to the sink, by topic and kind."""
    delivered: Counter[str] = field(default_factory=Counter)
    """Events that were confirmed, by topic. Empty for sinks without confirmations."""
    errors: Counter[str] = field(default_factory=Counter)
    """Events that were refused or given up on, by topic."""
    lag_seconds: float = 0.0
    """How late the last event was sent."""

    def summary(self) -> str:
        """One line for the end of a run."""
        kinds: Counter[str] = Counter()
        for (_, kind), count in list(self.sent.items()):
            kinds[kind] += count
        parts = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        delivered = f", {self.delivered.total()} confirmed" if self.delivered else ""
        return f"{kinds.total()} events sent{f' ({parts})' if parts else ''}{delivered}, {self.errors.total()} errors"


class _Collector:
    """Reads `Metrics` at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        sent = CounterMetricFamily(
            "tocsin_producer_events_sent", "Events passed to the sink.", labels=("topic", "kind")
        )
        # list() copies in one step; iterating while the other thread counts would fail.
        for (topic, kind), count in list(self._metrics.sent.items()):
            sent.add_metric((topic, kind), count)
        yield sent
        for name, text, counter in (
            ("events_delivered", "Events confirmed by the broker.", self._metrics.delivered),
            ("errors", "Events refused or given up.", self._metrics.errors),
        ):
            family = CounterMetricFamily(f"tocsin_producer_{name}", text, labels=("topic",))
            for topic, count in list(counter.items()):
                family.add_metric((topic,), count)
            yield family
        lag = "Delay of the last event against the schedule."
        yield GaugeMetricFamily("tocsin_producer_lag_seconds", lag, value=self._metrics.lag_seconds)


def serve(metrics: Metrics, *, address: str, port: int) -> Callable[[], None]:
    """Serve `metrics` at `/metrics` in a separate thread. Returns what ends it.

    Raises:
        ProducerError: prometheus-client is not installed, or the port is taken.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise ProducerError(
            "serving metrics needs prometheus-client; install it with: pip install 'tocsin-producer[metrics]'"
        ) from None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise ProducerError(f"cannot serve metrics on {address}:{port}: {reason}") from None
    _log.info("metrics at http://%s:%d/metrics", address, server.server_port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
