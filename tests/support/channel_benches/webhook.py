"""A receiver of webhooks."""

from typing import Any

from support.channel_benches import SECRET, HttpBench
from support.receiver import Answer


class Bench(HttpBench):
    def __init__(self) -> None:
        super().__init__()
        self.receiver.otherwise = lambda _: Answer(status=202)

    def settings(self, url: str) -> dict[str, Any]:
        return {"url": f"{url}/hook", "headers": {"Authorization": f"Bearer {SECRET}"}}

    def arrived(self) -> list[Any]:
        return [request.json for request in self.receiver.requests]
