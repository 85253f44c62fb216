"""The console: lines of JSON in memory."""

import io
import json
from typing import Any

from support.channel_benches import HttpBench


class Bench(HttpBench):
    http = False

    def __init__(self) -> None:
        super().__init__()
        self.printed = io.StringIO()

    def settings(self, url: str) -> dict[str, Any]:
        return {"format": "json"}

    def extras(self) -> dict[str, Any]:
        return {"stream": self.printed}

    def arrived(self) -> list[Any]:
        return [json.loads(line) for line in self.printed.getvalue().splitlines()]
