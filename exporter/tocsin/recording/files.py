"""The file of a recording: a header and lines, compressed with gzip.

Each line is flushed, so a file that was cut off can be read to its last whole line. Two things keep it small. Where a
source is read as a whole again and again (PostgreSQL), only the difference to the reading before is written
(`changes`). And of batches in which nothing but the time changed, one each five seconds is.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from tocsin.errors import TocsinError
from tocsin.model import Row
from tocsin.recording.lines import Item, Json, State, checked, item_of

T = TypeVar("T")

FORMAT = "tocsin recording"
VERSION = 1
_QUIET_EVERY = 5.0
_GZIP = 31
"""zlib's number for a window of 32 KiB with the header of gzip."""
_CHUNK = 1 << 16


class NotARecordingError(TocsinError):
    """The file is not a recording that can be read."""


class WriteError(OSError):
    """The file cannot be written."""


class Writer:
    """Writes lines to a file. What was written is in the file, whatever happens to the process."""

    def __init__(self, file: IO[bytes], header: Json) -> None:
        self.lines = 0
        self.changes = 0
        """Updates of rows, and events."""
        self._file = file
        self._gzip = zlib.compressobj(wbits=_GZIP)
        self._contents = _Contents()
        self._written: dict[str, float] = {}
        """When the last line of an alert was written, by what the lines say."""
        self._put({"format": FORMAT, "version": VERSION, **header})

    def add(self, line: Json) -> None:
        """Write a line of `tocsin.recording.lines`. Raises WriteError."""
        line = self._contents.shortened(line)
        alert, at = line.get("rows"), line["at"]
        news = line.get("updates") or line.get("changes") or line.get("list") or []
        if alert is not None:
            if not news and "note" not in line and at - self._written.get(alert, -_QUIET_EVERY) < _QUIET_EVERY:
                return
            self._written[alert] = at
        self.lines += 1
        self.changes += len(news)
        self._put(line)

    def close(self) -> None:
        """Write the end."""
        self._write(self._gzip.flush(zlib.Z_FINISH))

    def _put(self, line: Json) -> None:
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        self._write(self._gzip.compress(f"{text}\n".encode()) + self._gzip.flush(zlib.Z_SYNC_FLUSH))

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise WriteError(error.errno, error.strerror) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What a recording has."""

    states: Mapping[str, State]
    """The first state of each alert on rows."""
    sources: Sequence[str]
    """The sources of events."""
    start: float
    """Wall-clock seconds of the first line; `end`: of the latest, which need not be the last: clocks are set back."""
    end: float


class Recording:
    """A recording that can be read."""

    def __init__(self, path: Path) -> None:
        """Read what there is. Raises NotARecordingError."""
        self._path = path
        self.cut_off = False
        """Whether the end is missing."""
        header = next(self._lines(), None)
        version = header.get("version") if isinstance(header, dict) and header.get("format") == FORMAT else None
        if not isinstance(header, dict) or not isinstance(version, int):
            raise NotARecordingError(f"{path}: not a recording of `tocsin record`")
        if version > VERSION:
            newer = f" ({header['tocsin']})" if "tocsin" in header else ""
            raise NotARecordingError(f"{path}: written by a newer version of Tocsin{newer}; use that one")
        self.header: Json = header
        self.overview = self._overview()

    def _overview(self) -> Overview:
        states: dict[str, State] = {}
        sources: dict[str, None] = {}
        times: list[float] = []
        for line, item in self._each(lambda line: item_of(line) if "state" in line else None):
            if isinstance(item, State):
                states.setdefault(item.alert, item)
            if "events" in line:
                sources[line["events"]] = None
            times = [*times[:1], max([line["at"], *times[-1:]])]
        if not times:
            raise NotARecordingError(f"{self._path}: nothing was recorded")
        return Overview(states=states, sources=tuple(sources), start=times[0], end=times[-1])

    def items(self) -> Iterator[Item]:
        """Read what was recorded, in order. Raises NotARecordingError."""
        contents = _Contents()
        for _, item in self._each(lambda line: item_of(contents.whole(line))):
            yield item

    def _each(self, read: Callable[[Json], T]) -> Iterator[tuple[Json, T]]:
        lines, widths = self._lines(), dict[str, int]()
        next(lines)
        for number, unknown in enumerate(lines, start=2):
            try:
                line = checked(unknown, widths)
                item = read(line)
            except (LookupError, TypeError, ValueError, AttributeError):
                raise NotARecordingError(f"{self._path}: line {number} is damaged") from None
            yield line, item

    def _lines(self) -> Iterator[Any]:
        """The lines up to the last whole one."""
        try:
            rest = b""
            for piece in self._unpacked():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield _parsed(line)
            self.cut_off = self.cut_off or bool(rest)
        except (zlib.error, ValueError, RecursionError):
            raise NotARecordingError(f"{self._path}: not a recording, or a damaged one") from None
        except OSError as error:
            raise NotARecordingError(f"{self._path}: cannot be read: {error.strerror}") from None

    def _unpacked(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            chunk = file.read(_CHUNK)
            if not chunk.startswith(b"\x1f\x8b"):  # unpacked by hand
                while chunk:
                    yield chunk
                    chunk = file.read(_CHUNK)
                return
            unpack = zlib.decompressobj(wbits=_GZIP)
            while chunk:
                yield unpack.decompress(chunk)
                chunk = file.read(_CHUNK)
            self.cut_off = not unpack.eof


def _parsed(line: bytes) -> Any:
    """Raises ValueError, also for half of a surrogate pair, which nothing could store, or RecursionError."""
    found = json.loads(line)
    if b"\\u" in line:
        json.dumps(found, ensure_ascii=False).encode()
    return found


class _Contents:
    """The rows of each alert, from which a reading is written as a difference."""

    def __init__(self) -> None:
        self._rows: dict[str, Counter[Row]] = {}

    def shortened(self, line: Json) -> Json:
        """Write a snapshot as a difference (`changes`) to the rows before it."""
        if "rows" not in line or line.get("snapshot") is None:
            self._follow(line)
            return line
        before = self._rows.get(line["rows"], Counter())
        at, new, later = line["snapshot"], Counter[Row](), []
        for time, diff, row in line["updates"]:
            if time == at:
                new[tuple(row)] += diff
            else:
                later.append((time, diff, row))
        changes = [(new[row] - before[row], row) for row in {**before, **new} if new[row] != before[row]]
        short = {**line, "updates": later, "changes": changes}
        self._rows[line["rows"]] = new
        self._follow(short)
        return short

    def whole(self, line: Json) -> Json:
        """The opposite."""
        if "changes" not in line:
            self._follow(line)
            return line
        rows = self._rows.setdefault(line["rows"], Counter())
        for diff, row in line["changes"]:
            rows[tuple(row)] += diff
        self._drop_gone(rows)
        snapshot = [(line["snapshot"], count, row) for row, count in rows.items()]
        self._follow({"rows": line["rows"], "updates": line["updates"]})
        return {**line, "updates": [*snapshot, *line["updates"]]}

    def _follow(self, line: Json) -> None:
        if "state" in line:
            state = item_of(line)
            assert isinstance(state, State)
            rows = self._rows[state.alert] = Counter()
            for firing in state.firings:
                for count, row in firing.counts:
                    rows[row] += count
        elif "rows" in line and line["updates"]:
            rows = self._rows.setdefault(line["rows"], Counter())
            for _, diff, row in line["updates"]:
                rows[tuple(row)] += diff
            self._drop_gone(rows)

    def _drop_gone(self, rows: Counter[Row]) -> None:
        for row in [row for row, count in rows.items() if not count]:
            del rows[row]
