"""The Kafka channel for tests, and the users of brokers with a login."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from support.kafka import Kafka
from support.messages import message
from tocsin.channels import kafka as kind
from tocsin.channels.base import Delivered, Message, Result
from tocsin.channels.kafka.channel import Kafka as Channel

SECRET = "S3CR3T-and-quite-long"
USERS = {"admin": SECRET, "guest": SECRET + "-too"}


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


async def sent(to: Channel, what: Message) -> Result:
    [result] = await to.send([what])
    return result


async def delivered(to: Channel, *keys: str) -> bool:
    """Whether messages of these keys, sent together, arrive."""
    return set(await to.send([message(key=key) for key in keys or ("17",)])) == {Delivered()}


def login(broker: Kafka, user: str, password: str) -> dict[str, Any]:
    """The settings with which a user logs in at `guarded`."""
    return {
        "tls": broker.certificate is not None,
        "tls_ca": broker.certificate,
        "sasl_mechanism": "PLAIN",
        "sasl_username": user,
        "sasl_password": password,
    }
