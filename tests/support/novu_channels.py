"""Novu channels of the alert `late`, and their requests."""

import json
import time
from collections.abc import Callable
from typing import Any

from support.messages import message
from support.novu import API_KEY, WORKFLOW, FakeNovu
from tocsin.channels import novu
from tocsin.channels.base import Message

TRIGGER = "/v1/events/trigger"
BULK = "/v1/events/trigger/bulk"


def novu_channel(
    url: str, *, now: float = 0.0, monotonic: Callable[[], float] = time.monotonic, **settings: Any
) -> Any:
    """A channel to a Novu."""
    fields = {"type": "novu", "url": url, "api_key": API_KEY, "workflow": WORKFLOW, "recipients": ["sub-1"], **settings}
    config = novu.Config.model_validate(fields)
    options = {name: value for name, value in fields.items() if name in novu.Options.model_fields}
    return novu.build(
        "novu", config, {"late": novu.Options.model_validate(options)}, now=lambda: now, monotonic=monotonic
    )


def several(count: int, **rest: Any) -> list[Message]:
    """Messages about so many rows."""
    return [message(key=str(number), **rest) for number in range(count)]


def bodies(server: FakeNovu, path: str = TRIGGER) -> list[Any]:
    """The bodies of requests to a path, in order."""
    return [json.loads(each.body) for each in server.requests() if each.path == path]
