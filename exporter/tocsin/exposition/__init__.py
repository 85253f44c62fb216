"""What Prometheus sees: the firing rows of every alert as gauges, and Tocsin's own metrics."""

from tocsin.exposition.gauges import Gauges, GaugeSpec, Rendered
from tocsin.exposition.metrics import AlertMetrics, AlertState, ChannelMetrics, ChannelState, Metrics, SourceMetrics
from tocsin.exposition.page import Page, Scrape

__all__ = [
    "AlertMetrics",
    "AlertState",
    "ChannelMetrics",
    "ChannelState",
    "GaugeSpec",
    "Gauges",
    "Metrics",
    "Page",
    "Rendered",
    "Scrape",
    "SourceMetrics",
]
