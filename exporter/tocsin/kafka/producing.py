"""A producer as something to await."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from tocsin.kafka import PURGED, QUEUE_FULL, Fault, LibraryLog, Redact, Trouble, cause

_STEP = 0.1
"""Seconds that one call of the thread takes at most, and so the longest that closing waits for it."""

Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. `value` None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class Writer:
    """An idempotent producer, with a thread in which the library reports results."""

    def __init__(self, settings: Mapping[str, Any], redact: Redact, **fields: str) -> None:
        """`settings`: for librdkafka. `redact`: removes secrets from its messages. `fields`: for the log."""
        self.trouble = Trouble(redact)
        log = LibraryLog(redact, **fields)
        self._producer = Producer(
            {
                "linger.ms": 1,
                **settings,
                "enable.idempotence": True,  # and so acks=all
                "logger": log,
                "error_cb": self.trouble.report,
                "stats_cb": self.trouble.check,
                "statistics.interval.ms": Trouble.CHECK_EVERY,
            }
        )
        self._closing = False
        self._thread = threading.Thread(target=self._poll, name="kafka producer", daemon=True)
        self._thread.start()

    async def write(self, records: Sequence[Record]) -> list[Fault | None]:
        """Send records, and wait until each is acknowledged or given up. Returns the fault of each, None if
        acknowledged."""
        if not records:
            return []
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        faults: list[Fault | None] = [None] * len(records)
        settled: list[int] = []

        def settle(number: int, fault: Fault | None, _: object = None) -> None:
            """Called in the thread of the producer, or here where a record is refused at once."""
            faults[number] = fault
            if fault is None:
                self.trouble.over()
            settled.append(number)
            if len(settled) == len(records):
                with contextlib.suppress(RuntimeError):  # the loop is closed: no call waits
                    loop.call_soon_threadsafe(_resolve, done)

        for number, one in enumerate(records):
            settled_one = partial(settle, number)
            try:
                self._producer.produce(
                    one.topic, value=one.value, key=one.key, headers=one.headers, on_delivery=settled_one
                )
            except BufferError:
                settled_one(KafkaError(QUEUE_FULL))
            except KafkaException as error:
                settled_one(cause(error))
            except RuntimeError:  # the producer is closed
                settled_one(KafkaError(PURGED))
        await done
        return faults

    def close(self) -> None:
        """Give up what is not acknowledged. Blocks for a moment."""
        self._closing = True
        self._thread.join()
        self._producer.purge()
        # A fatal error may come just now, when no call waits for it.
        with contextlib.suppress(KafkaException):
            self._producer.flush(_STEP)
        # Left to the garbage collector, it could end in a thread of the library, and the process with it.
        with contextlib.suppress(KafkaException):
            self._producer.close()

    def _poll(self) -> None:
        while not self._closing:
            try:
                self._producer.poll(_STEP)
            except KafkaException as error:
                # A fatal error is raised here as well as reported, again and again.
                fault = cause(error)
                if fault is not None:
                    self.trouble.report(fault)
                time.sleep(_STEP)


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
