"""A producer, and the thread in which it tells what has become of the records."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from tocsin.kafka import PURGED, QUEUE_FULL, Fault, Log, Trouble, Words, cause

_STEP = 0.1
"""Seconds that the thread stays in the library at most, and so the longest that closing waits for it."""


Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. `value` None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class _Call:
    """The records of one call, and what has become of them. `left`: how many are not known yet, and one for the
    caller while it still hands over."""

    faults: list[Fault | None]
    left: int
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Writer:
    """An idempotent producer as something to wait for."""

    def __init__(self, settings: Mapping[str, Any], words: Words, **about: str) -> None:
        """`settings`: librdkafka's, but for idempotence. `words`: takes secrets out of what it says. `about`: who
        writes, for the log."""
        self.trouble = Trouble(words)
        log = Log(words, **about)
        self._producer = Producer(
            {
                "linger.ms": 1,
                **settings,
                "enable.idempotence": True,  # and so acks=all
                "logger": log,
                "error_cb": self.trouble.report,
                "stats_cb": self.trouble.look,
                "statistics.interval.ms": Trouble.LOOK,
            }
        )
        self._counting = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._poll, name="kafka producer", daemon=True)
        self._thread.start()

    async def write(self, records: Sequence[Record]) -> list[Fault | None]:
        """Hand over the records, and wait until of each it is known, or can no longer be, whether the brokers have it.
        What went wrong for each, None for those they have."""
        call = _Call([None] * len(records), len(records) + 1)
        for number, record in enumerate(records):
            self._produce(record, call, number)
        self._count(call)
        await call.done
        return call.faults

    def close(self) -> None:
        """Give up what is not acknowledged: the outbox has it. Blocks for a moment."""
        self._closing = True
        self._thread.join()
        self._producer.purge()
        # What nothing can be sent after may come just now, when nobody waits for it any more.
        with contextlib.suppress(KafkaException):
            self._producer.flush(_STEP)
        # Left to the garbage collector, it could end in a thread of the library, and the process with it.
        with contextlib.suppress(KafkaException):
            self._producer.close()

    def _produce(self, record: Record, call: _Call, number: int) -> None:
        def settled(fault: Fault | None, _: object = None) -> None:
            call.faults[number] = fault
            if fault is None:
                self.trouble.over()
            self._count(call)

        try:
            self._producer.produce(
                record.topic, value=record.value, key=record.key, headers=record.headers, on_delivery=settled
            )
        except BufferError:
            settled(KafkaError(QUEUE_FULL))
        except KafkaException as error:
            settled(cause(error))
        except RuntimeError:  # the producer is closed
            settled(KafkaError(PURGED))

    def _count(self, call: _Call) -> None:
        with self._counting:
            call.left -= 1
            last = call.left == 0
        if last:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                call.done.get_loop().call_soon_threadsafe(_resolve, call.done)

    def _poll(self) -> None:
        while not self._closing:
            try:
                self._producer.poll(_STEP)
            except KafkaException as error:
                # What nothing can be sent after is raised here as well as reported, again and again.
                fault = cause(error)
                if fault is not None:
                    self.trouble.report(fault)
                time.sleep(_STEP)


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
