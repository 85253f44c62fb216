"""Lines in Prometheus's text format, in sorted order, in blocks: a change costs one block, and a scrape costs none.

A line is a prefix (`metric{labels} `) and a value text (`1\\n`). Blocks cover neighbouring ranges of prefixes, like
the leaves of a B-tree, and each keeps what it was last rendered to. Sorted order makes the page the same after every
history, lets `max_series` mean "the first ones" without a second structure, and compresses well, since neighbours
look alike.
"""

import math
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain

_FULL = 256
"""Lines from which a block is split. Smaller ones save work where little changes, and cost 20 bytes of gzip each."""
_SPARSE = 16
"""Lines below which a block is joined to a neighbour."""
_GZIP = 16 + zlib.MAX_WBITS


def compress(data: bytes) -> bytes:
    """One gzip member. Level 1: a twelfth of the time of level 9 for a third more bytes."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return compressor.compress(data) + compressor.flush()


# The text of a line.

ZERO = b"0\n"
ONE = b"1\n"


def sample_value(number: float) -> bytes:
    """A sample value with its line end: whole numbers as digits, others in the shortest form that reads back the
    same."""
    if number.is_integer() and -1e15 < number < 1e15:
        return b"%d\n" % int(number)
    if math.isfinite(number):
        return repr(number).encode() + b"\n"
    if math.isnan(number):
        return b"NaN\n"
    return b"+Inf\n" if number > 0 else b"-Inf\n"


def escape(text: str) -> str:
    r"""A label value between the quotes: `\`, `"` and line feeds escaped, everything else as it is."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def needs_escape(text: str) -> bool:
    """Whether `escape` would change the text."""
    return "\\" in text or '"' in text or "\n" in text


def encode(text: str) -> bytes:
    """UTF-8 that Prometheus accepts. Text from JSON can contain half a surrogate pair, which becomes `?`: one line that
    is not UTF-8 makes Prometheus refuse the whole page."""
    return text.encode("utf-8", "replace")


def label_texts(pairs: Iterable[tuple[str, str | None]]) -> list[str]:
    """`name="value"` of each pair that has a value: to Prometheus, an empty label is an absent one."""
    return [f'{name}="{escape(text)}"' for name, text in pairs if text]


def header(metric: str, help_text: str) -> bytes:
    """The lines above a gauge family, the same in both formats (OpenMetrics wants quotes in the help escaped, the
    other format has no such escape, so they become apostrophes)."""
    documentation = help_text.replace("\\", r"\\").replace("\n", r"\n").replace('"', "'")
    return encode(f"# HELP {metric} {documentation}\n# TYPE {metric} gauge\n")


# The lines in order.


class Block:
    """Neighbouring lines. Once a scrape has taken it, it is not changed any more: a change makes a copy.

    Rendering may run in any thread, also in two at once: each step makes something new and ends in one assignment. The
    result is kept.
    """

    __slots__ = ("_gzip", "_plain", "lines", "ordered", "taken")

    def __init__(self, lines: dict[bytes, bytes], *, ordered: bool = True) -> None:
        self.lines = lines
        self.ordered = ordered
        self.taken = False
        self._plain: bytes | None = None
        self._gzip: bytes | None = None

    def copy(self) -> "Block":
        ordered = self.ordered  # before the lines: rendering replaces them first and then says that they are in order
        return Block(self.lines.copy(), ordered=ordered)

    def items(self) -> list[tuple[bytes, bytes]]:
        """The lines in order."""
        ordered = self.ordered
        items = list(self.lines.items())
        return items if ordered else sorted(items)

    def plain(self) -> bytes:
        if self._plain is None:
            self._plain = self._join()
        return self._plain

    def gzip(self) -> bytes:
        if self._gzip is None:
            self._gzip = compress(self._plain or self._join())
        return self._gzip

    def _join(self) -> bytes:
        if not self.ordered:
            self.lines = dict(sorted(self.lines.items()))
            self.ordered = True
        return b"".join(chain.from_iterable(self.lines.items()))


class Lines:
    """A sorted map from prefix to value text."""

    __slots__ = ("_blocks", "_count", "_lows")

    def __init__(self) -> None:
        self._blocks = [Block({})]
        self._lows = [b""]  # the smallest prefix that may be in each block
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, prefix: bytes) -> bytes | None:
        return self._blocks[bisect_right(self._lows, prefix) - 1].lines.get(prefix)

    def set(self, prefix: bytes, text: bytes) -> None:
        index = bisect_right(self._lows, prefix) - 1
        old = self._blocks[index].lines.get(prefix)
        if old == text:
            return
        block = self._writable(index)
        block.lines[prefix] = text
        if old is None:
            block.ordered = False
            self._count += 1
            if len(block.lines) > _FULL:
                self._split(index)

    def discard(self, prefix: bytes) -> None:
        index = bisect_right(self._lows, prefix) - 1
        if prefix not in self._blocks[index].lines:
            return
        block = self._writable(index)
        del block.lines[prefix]
        self._count -= 1
        if len(block.lines) < _SPARSE:
            self._merge(index)

    def prefixes(self) -> Iterable[bytes]:
        return chain.from_iterable(block.lines for block in self._blocks)

    def take(self, limit: int) -> list[Block]:
        """The first `limit` lines as of now, whatever is changed afterwards."""
        taken = []
        for block in self._blocks:
            if len(block.lines) > limit:
                taken.append(Block(dict(block.items()[:limit])))
                break
            if block.lines:
                block.taken = True
                taken.append(block)
                limit -= len(block.lines)
        return taken

    def _writable(self, index: int) -> Block:
        block = self._blocks[index]
        if block.taken:
            block = self._blocks[index] = block.copy()
        return block

    def _split(self, index: int) -> None:
        items = self._blocks[index].items()
        half = len(items) // 2
        self._blocks[index : index + 1] = [Block(dict(items[:half])), Block(dict(items[half:]))]
        self._lows.insert(index + 1, items[half][0])

    def _merge(self, index: int) -> None:
        """Join a block that has become small to a neighbour, if both together leave room to grow."""
        for left in (index - 1, index):
            if left < 0 or left + 1 >= len(self._blocks):
                continue
            first, second = self._blocks[left : left + 2]
            if len(first.lines) + len(second.lines) <= _FULL // 2:
                self._blocks[left : left + 2] = [Block(dict(first.items() + second.items()))]
                del self._lows[left + 1]
                return
