"""The producer's metrics, and the page that serves them."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tocsin_producer.errors import ProducerError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
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

    def collect(self) -> "Iterator[Metric]":
        """Yield the metrics for a scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: tuple[tuple[str, str, tuple[str, ...], Counter[Any]], ...] = (
            ("events_sent", "Events passed to the sink.", ("topic", "kind"), self.sent),
            ("events_delivered", "Events confirmed by the broker.", ("topic",), self.delivered),
            ("errors", "Events refused or given up.", ("topic",), self.errors),
        )
        for name, text, labels, counter in families:
            family = CounterMetricFamily(f"tocsin_producer_{name}", text, labels=labels)
            # list() copies in one step; iterating while the other thread counts would fail.
            for key, count in list(counter.items()):
                family.add_metric(key if isinstance(key, tuple) else (key,), count)
            yield family
        lag = "Delay of the last event against the schedule."
        yield GaugeMetricFamily("tocsin_producer_lag_seconds", lag, value=self.lag_seconds)


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
    registry.register(metrics)
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
