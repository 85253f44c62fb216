"""What Prometheus sees: the firing rows of every alert as gauges, and Tocsin's own metrics."""

from tocsin.exposition.gauges import Gauges, GaugeSpec, Rendered
from tocsin.exposition.metrics import AlertMetrics, ChannelMetrics, Metrics, SourceMetrics
from tocsin.exposition.page import Page, Scrape
from tocsin.exposition.status import AlertStatus, ChannelState, State

__all__ = [
    "AlertMetrics",
    "AlertStatus",
    "ChannelMetrics",
    "ChannelState",
    "GaugeSpec",
    "Gauges",
    "Metrics",
    "Page",
    "Rendered",
    "Scrape",
    "SourceMetrics",
    "State",
]
