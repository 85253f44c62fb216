"""One JSON object per line, for people and for jq."""

import base64
import json
import sys
from typing import Any, TextIO

from tocsin_producer.errors import ReaderGoneError, SinkError


class StdoutSink:
    """Writes `{"topic": ..., "key": ..., "value": ...}` per event.

    A value that is JSON is embedded; other text is `"text"`; bytes that are not UTF-8 are `"base64"`; no value is
    `null`.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream

    def send(self, topic: str, key: bytes, value: bytes | None) -> None:
        try:
            self._stream.write(json.dumps({"topic": topic, "key": key.decode(), **_shown(value)}) + "\n")
        except OSError as error:
            raise _closed(error) from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise _closed(error) from None

    def close(self) -> None:
        self.flush()


def _shown(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {"value": None}
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
    try:
        return {"value": json.loads(text)}
    except ValueError:
        return {"text": text}


def _closed(error: OSError) -> SinkError:
    if isinstance(error, BrokenPipeError):
        return ReaderGoneError("the reader of standard output has closed it")
    return SinkError(f"standard output cannot be written: {error.strerror}")
