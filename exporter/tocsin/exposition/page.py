"""The page that Prometheus scrapes: the gauges of all alerts, then Tocsin's own metrics."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tocsin.exposition.gauges import Gauges
from tocsin.exposition.lines import Block, compress, header
from tocsin.exposition.metrics import Metrics

Encoder: TypeAlias = Callable[[Collector], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """One rendered page."""

    body: Sequence[bytes]
    """To be sent one after the other; with gzip, each piece is a member of its own."""
    content_type: str
    content_encoding: str | None


class Page:
    """Everything that `/metrics` shows.

    A scrape asks neither a source nor the ledger. It shows the state at one moment: the event loop only picks up the
    blocks of lines, and a thread joins and compresses those that changed.
    """

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.metrics = metrics
        self._clock = clock
        self._gauges: dict[str, Gauges] = {}
        self._headers: dict[bytes, Block] = {}

    def add(self, gauges: Gauges) -> None:
        """Show the gauges of an alert, in place of those it had before."""
        self._gauges[gauges.spec.alert] = gauges

    def remove(self, alert: str) -> None:
        """Stop showing an alert."""
        self._gauges.pop(alert, None)

    async def scrape(self, accept: str, accept_encoding: str, now: float) -> Scrape:
        """The page as it is at `now`, in the format and encoding that the two headers ask for."""
        started = self._clock()
        encode, content_type = _encoder(accept)
        gzip = _takes_gzip(accept_encoding)
        blocks = self._blocks_at(now)
        own = _Collected(self.metrics.collect())
        body = await asyncio.to_thread(_render, blocks, own, encode, gzip=gzip)
        self.metrics.exposition_seconds.set(self._clock() - started)
        return Scrape(body=body, content_type=content_type, content_encoding="gzip" if gzip else None)

    def series(self, now: float) -> str:
        """The gauges of the alerts alone, as they are at `now`."""
        return b"".join(block.plain() for block in self._blocks_at(now)).decode()

    def _blocks_at(self, now: float) -> list[Block]:
        for gauges in self._gauges.values():
            gauges.advance(now)
        return list(self._blocks())

    def _blocks(self) -> Iterator[Block]:
        families: dict[str, list[Gauges]] = {}
        for gauges in self._gauges.values():
            families.setdefault(gauges.spec.metric, []).append(gauges)
        headers, self._headers = self._headers, {}
        for metric, members in sorted(families.items()):
            lines = header(metric, members[0].spec.help)
            self._headers[lines] = headers.get(lines) or Block({lines: b""})
            yield self._headers[lines]
            for gauges in members:
                yield from gauges.blocks()


def _render(blocks: Iterable[Block], own: Collector, encode: Encoder, *, gzip: bool) -> list[bytes]:
    last = encode(own)
    if gzip:
        return [*(block.gzip() for block in blocks), compress(last)]
    return [*(block.plain() for block in blocks), last]


_OPENMETRICS_VERSION = re.compile(r"openmetrics-text([^,]*?)version=[1-9][0-9.]*")


def _encoder(accept: str) -> tuple[Encoder, str]:
    # The library repeats the version that it is asked for, 2.0.0 too, over a text of 1.0.0. A Prometheus that is
    # offered 2.0.0 then reads it by other rules and drops the whole page.
    accept = _OPENMETRICS_VERSION.sub("openmetrics-text\\1version=1.0.0", accept)
    try:
        return choose_encoder(accept)
    except TypeError:
        # A version that is not a number: the library compares it with numbers all the same.
        return choose_encoder("")


def _takes_gzip(accept_encoding: str) -> bool:
    for accepted in accept_encoding.lower().split(","):
        coding, _, weight = accepted.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


class _Collected:
    """Metrics collected before, for an encoder that wants a registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
