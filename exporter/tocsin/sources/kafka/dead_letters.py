"""Copies of refused records, written to the topic `dead_letters`."""

from collections.abc import Sequence

import structlog
from confluent_kafka import Message

from tocsin.errors import DeadLetterError
from tocsin.kafka import ENDED, FINAL, TOO_LARGE, Fault
from tocsin.kafka.producing import Headers, Record, Writer
from tocsin.repeats import Repeats
from tocsin.sources.documents import Unreadable
from tocsin.sources.kafka import records
from tocsin.sources.kafka.consuming import ConsumerThread

log = structlog.get_logger(__name__)

Refusal = tuple[Message, Unreadable]

_MAX_BYTES = 100_000_000
"""Limit for a copy here; the brokers have their own."""


class DeadLetters:
    """Writes copies of refused records to a topic, with headers that say where each was and why it was refused."""

    def __init__(self, source: str, topic: str, consumer: ConsumerThread) -> None:
        self._source = source
        self._topic = topic
        self._consumer = consumer
        self._writer: Writer | None = None
        self._unwritten = Repeats(log, "a dead letter is not written")

    async def write(self, refusals: list[Refusal]) -> None:
        """Write copies, and remove from the list what is written or never can be. Raises DeadLetterError."""
        if self._writer is None:
            timeout = round(self._consumer.config.connect_timeout * 1000)
            limits = {"message.max.bytes": _MAX_BYTES, "message.timeout.ms": timeout}
            settings = {**self._consumer.config.client_settings(), **limits}
            self._writer = Writer(settings, self._consumer.redact, source=self._source)
        faults = await self._write(self._writer, [self._copy(*refusal) for refusal in refusals])
        left, failed = [], None
        for refusal, fault in zip(refusals, faults, strict=True):
            if fault is None:
                continue
            if fault.code() in FINAL or fault.code() in TOO_LARGE:
                error = self._consumer.redact(fault.str())
                self._unwritten.add(self._topic, source=self._source, topic=self._topic, error=error)
                continue
            left.append(refusal)
            failed = failed or fault
        refusals[:] = left  # the next attempt writes only these
        if failed is not None:
            raise await self._error(self._writer, failed)

    async def close(self) -> None:
        """Close the producer."""
        if self._writer is not None:
            await self._consumer.call(self._writer.close)

    async def _write(self, writer: Writer, copies: Sequence[Record]) -> list[Fault | None]:
        faults = await writer.write(copies)
        # A record that is too large is written without its value.
        large = [number for number, fault in enumerate(faults) if fault is not None and fault.code() in TOO_LARGE]
        headers = [[*copies[number].headers[-4:], ("tocsin-value", "left out: too large")] for number in large]
        cut = [Record(topic=self._topic, key=None, value=None, headers=each) for each in headers]
        for number, fault in zip(large, await writer.write(cut), strict=True):
            faults[number] = fault
        return faults

    def _copy(self, message: Message, why: Unreadable) -> Record:
        own: Headers = [
            ("tocsin-source", self._source),
            ("tocsin-at", records.place(message)),
            ("tocsin-reason", why.reason.value),
            ("tocsin-detail", why.detail),
        ]
        headers = message.headers() or []
        theirs = headers.items() if isinstance(headers, dict) else headers
        return Record(topic=self._topic, key=message.key(), value=message.value(), headers=[*theirs, *own])

    async def _error(self, writer: Writer, fault: Fault) -> DeadLetterError:
        fatal = writer.trouble.fatal
        if fatal is not None:
            # The library sends nothing with this producer any more. The next attempt creates another one.
            self._writer = None
            await self._consumer.call(writer.close)
            fault = fatal if fault.code() in ENDED else fault
        error = self._consumer.error(fault, self._topic, right="WRITE")
        return DeadLetterError(f"dead letters cannot be written: {error}", error.reason)
