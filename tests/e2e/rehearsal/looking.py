"""Changes and observations of a rehearsal from outside."""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from e2e.rehearsal.engine import Stack

VIEW = "demo.organization_alert"


def change(stack: Stack, command: str, row: list[Any]) -> None:
    """`insert` a row into the view of deployments, or `delete` it."""
    script = ("python3", "/rehearsal/materialized.py")
    stack.compose("exec", "-T", "materialized", *script, command, VIEW, json.dumps(row))


def spiking(organization: str, owner: str, count: int = 11) -> list[Any]:
    """A row of the view of deployments."""
    return ["deployment_spike", organization, "warning", owner, count, 1]


def gauges(stack: Stack) -> str:
    return _get(stack.url("tocsin") + "/metrics")


def inbox(stack: Stack) -> dict[str, Any]:
    text = _get(stack.url("inbox") + "/control/state")
    found: dict[str, Any] = json.loads(text) if text else {"notifications": [], "webhooks": []}
    return found


def messages(stack: Stack, workflow: str, person: str) -> list[Any]:
    found = inbox(stack)["notifications"]
    return [each for each in found if (each["workflow"], each["subscriber"]) == (workflow, person)]


def webhooks(stack: Stack, name: str) -> list[Any]:
    return [each for each in inbox(stack)["webhooks"] if each["name"] == name]


def alerts(stack: Stack, status: str, organization: str) -> list[Any]:
    """Alerts in Alertmanager's webhooks, about an organization."""
    found = [alert for each in webhooks(stack, "alertmanager") for alert in each["body"]["alerts"]]
    return [a for a in found if a["status"] == status and a["labels"].get("organization") == organization]


def prometheus(stack: Stack, query: str) -> list[str]:
    text = _get(stack.url("prometheus") + "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
    return [each["value"][1] for each in json.loads(text)["data"]["result"]] if text else []


def delivered(stack: Stack) -> float:
    """Events that the broker has confirmed since the producer's start."""
    found = prometheus(stack, "sum(tocsin_producer_events_delivered_total)")
    return float(found[0]) if found else 0.0


def stored(stack: Stack, topic: str) -> int:
    """Number of events in a topic, read from outside the containers."""
    consumer = Consumer({"bootstrap.servers": f"127.0.0.1:{stack.ports['REDPANDA']}", "group.id": "rehearsal"})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        return int(high) - int(low)
    finally:
        consumer.close()


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""
