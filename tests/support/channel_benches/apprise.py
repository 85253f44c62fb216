"""A receiver of Apprise's own JSON, in messages whose text is the whole envelope."""

import json
from typing import Any

from support.channel_benches import HttpBench
from support.channel_benches.email import TEXT


class Bench(HttpBench):
    http = False

    def settings(self, url: str) -> dict[str, Any]:
        return {"urls": [url.replace("http://", "json://")], "body": TEXT}

    def arrived(self) -> list[Any]:
        return [json.loads(request.json["message"]) for request in self.receiver.requests]
