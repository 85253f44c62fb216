"""Channels to a real Kafka, and what arrived there."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from support.kafka import (
    USERS,
    Kafka,
    stored,
)
from support.messages import message
from tocsin.channels import kafka as kind
from tocsin.channels.base import Delivered
from tocsin.channels.kafka.channel import Kafka as Channel

SECRET = USERS["admin"]
NOWHERE = "127.0.0.1:1"


def configured(at: str, **settings: Any) -> kind.Config:
    return kind.Config.model_validate({"type": "kafka", "bootstrap_servers": [at], **settings})


@asynccontextmanager
async def channel(at: str, *, clock: Callable[[], float] = time.monotonic, **settings: Any) -> AsyncIterator[Channel]:
    config = configured(at, **settings)
    made = Channel("k", config, {"late": config}, clock=clock)
    try:
        yield made
    finally:
        await made.close()


async def delivered(to: Channel, *keys: str) -> bool:
    """Whether messages of these keys, sent together, arrive."""
    return set(await to.send([message(key=key) for key in keys or ("17",)])) == {Delivered()}


def values(broker: Kafka, topic: str) -> list[Any]:
    return [json.loads(record.value() or b"null") for record in stored(broker, topic)]
