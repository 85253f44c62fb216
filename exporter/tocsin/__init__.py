"""Tocsin: rows of a live view become Prometheus gauges and durable notifications."""
