"""The port for Prometheus, for probes and for people."""
