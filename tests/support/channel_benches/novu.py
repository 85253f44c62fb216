"""A receiver that answers like Novu."""

from typing import Any

from support.channel_benches import SECRET, HttpBench
from support.receiver import Answer, Received, of_json


def _accepts(request: Received) -> Answer:
    entry = {"acknowledged": True, "status": "processed", "transactionId": "x"}
    events = request.json.get("events")
    return of_json(201, {"data": entry if events is None else [entry] * len(events)})


class Bench(HttpBench):
    def __init__(self) -> None:
        super().__init__()
        self.receiver.otherwise = _accepts

    def settings(self, url: str) -> dict[str, Any]:
        return {"url": url, "api_key": SECRET, "workflow": "w", "recipients": ["sub-1"], "max_payload": 8_000_000}

    def arrived(self) -> list[Any]:
        return [
            event["payload"]
            for request in self.receiver.requests
            for event in request.json.get("events", [request.json])
        ]
