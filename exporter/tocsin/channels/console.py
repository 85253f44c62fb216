"""A channel that prints one line per notification to standard output."""

import asyncio
import errno
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO

from tocsin.channels.base import Channel, Delivered, Message, Result, Retry
from tocsin.channels.settings import ChannelConfig, ChannelOptions
from tocsin.envelope import Envelope
from tocsin.errors import Reason


class Options(ChannelOptions):
    """Settings of a channel or of one alert."""

    format: Literal["text", "json"] = "text"
    """`text`: a line for people. `json`: the envelope."""


class Config(ChannelConfig, Options):
    """A line on standard output for each notification."""

    type: Literal["console"] = "console"
    """The kind of channel."""


def build(name: str, config: Config, routes: Mapping[str, Options], *, stream: TextIO | None = None) -> "Console":
    """Make the channel. `stream`: where it prints, by default standard output."""
    return Console(name, config, routes, stream)


class Console(Channel):
    """Prints the messages of one call in one write."""

    def __init__(self, name: str, config: Config, routes: Mapping[str, Options], stream: TextIO | None) -> None:
        self._name = name
        self._config = config
        self._routes = routes
        self._stream = stream

    def __repr__(self) -> str:
        return f"Console({self._name!r})"

    def batch_size(self, pending: int) -> int:
        return min(pending, 100)

    async def send(self, messages: Sequence[Message]) -> Sequence[Result]:
        lines = [self._line(message) for message in messages]
        try:
            # In a thread, since a pipe that is not read blocks the writer.
            await asyncio.to_thread(self._write, "".join(line + "\n" for line in lines))
        except (OSError, ValueError) as error:
            # Writing to a closed stream is a ValueError.
            why = error.strerror if isinstance(error, OSError) else "the output is closed"
            return [Retry(Reason.CONNECTION, f"cannot write: {why}")] * len(messages)
        return [Delivered()] * len(messages)

    def preview(self, message: Message) -> Mapping[str, Any]:
        return {"line": self._line(message)}

    def _line(self, message: Message) -> str:
        options = self._routes.get(message.alert, self._config)
        if options.format == "json":
            return json.dumps(message.envelope, separators=(",", ":"))
        return _text(message.envelope)

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stdout
        binary = getattr(stream, "buffer", None)
        if isinstance(binary, io.BufferedIOBase | io.RawIOBase):  # raw with PYTHONUNBUFFERED
            # UTF-8 in any locale: a name with an accent must not stop a notification.
            stream.flush()
            left = text.encode("utf-8", "backslashreplace")
            while left:
                written = binary.write(left)
                if written is None:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                left = left[written:]
            binary.flush()
        else:
            stream.write(text)
            stream.flush()


def _text(envelope: Envelope) -> str:
    value = {} if envelope["value"] is None else {"value": str(envelope["value"])}
    labels, annotations = _pairs(envelope["labels"]), _pairs(envelope["annotations"])
    # The bar sets labels apart: one may be called `value`, `id` or as an annotation.
    own = _pairs({**value, "id": envelope["id"]})
    return " ".join([envelope["at"], envelope["status"], envelope["alert"], *labels, "|", *annotations, *own])


def _pairs(texts: Mapping[str, str]) -> list[str]:
    return [f"{_quoted(name)}={_quoted(text)}" for name, text in texts.items()]


def _quoted(text: str) -> str:
    """The text as it is, or as JSON if it could break the line or control the terminal."""
    plain = text and text.isprintable() and not any(char in text for char in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
