"""What the web server asks of the running process."""

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tocsin.alert import Alert
from tocsin.explain.explanation import Explanation, Life, RouteExplanation
from tocsin.explain.keys import Asked
from tocsin.firing import Firing
from tocsin.ledger.base import Ledger, Record
from tocsin.model import Columns
from tocsin.pipeline.feed import Feed
from tocsin.pipeline.tap import Tap
from tocsin.sources.http import Answer


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of an alert that are pending, firing or kept firing."""

    alert: Alert
    columns: Columns
    firings: Iterable[Firing]
    """Newest first; to be read at once. Raises RuntimeError while a thread applies a large batch."""


class Process(Protocol):
    """The running process. What is not `async` answers from memory, as JSON made by `tocsin.web.views`."""

    @property
    def feed(self) -> Feed:
        """The transitions as they happen."""
        ...

    @property
    def tap(self) -> Tap:
        """The batches as they come."""
        ...

    @property
    def ledger(self) -> Ledger | None:
        """The ledger; None where nothing has to be stored."""
        ...

    def alert(self, name: str) -> Alert | None:
        """Return an alert of the configuration."""
        ...

    def ready(self) -> Sequence[str]:
        """Return why the process is not ready, one sentence each; empty when it is."""
        ...

    def warnings(self) -> Sequence[str]:
        """Return what does not work although the process is ready, one sentence each: channels that do not deliver,
        sources whose messages are not valid events, sources that NOTIFY cannot wake."""
        ...

    def alerts(self) -> Sequence[dict[str, Any]]:
        """Return the status of every alert, in the order of the configuration."""
        ...

    def instances(self) -> Sequence[dict[str, Any]]:
        """Return the processes that share the ledger, the first one first; none where only one can use it."""
        ...

    def configuration(self) -> dict[str, Any]:
        """Return the configuration that runs: `digest` (equal for equal alerts, sources and channels; null before it
        runs one), `since`, and why the last reload was `refused`, one sentence each."""
        ...

    def refused(self) -> Sequence[str]:
        """Return why changed files are not in effect, one sentence each: the configuration, or `web.config_file`."""
        ...

    def channels(self) -> Sequence[dict[str, Any]]:
        """Return the status of every channel, in the order of the configuration, then of removed channels that still
        have notifications."""
        ...

    def firing(self, alert: str, limit: int) -> Iterable[dict[str, Any]]:
        """Return at most `limit` rows of an alert that exists, newest first."""
        ...

    def rows(self, alert: str) -> Rows | None:
        """Return the rows of an alert on rows that runs."""
        ...

    def revisions(self) -> Mapping[str, int]:
        """Return a number for each alert on rows that rises when its rows change."""
        ...

    def delays(self) -> Mapping[str, tuple[int, float]]:
        """Return of each channel how many delays of deliveries are known since the start, and their sum in seconds."""
        ...

    async def explain(self, alert: str, asked: Asked) -> Explanation:
        """Explain a key of an alert that exists. Raises LedgerError, and UnknownColumnError."""
        ...

    async def life(self, record: Record) -> tuple[Life, RouteExplanation]:
        """Explain a notification, and its route. Raises LedgerError."""
        ...

    async def receive(self, alert: str, headers: Mapping[str, str], body: AsyncIterable[bytes]) -> Answer:
        """Ingest events; returns the answer once they are in the ledger.

        Header names are in lower case. The body is read only where the headers allow it, and up to the source's limit.
        Raises RefusedRequest, and SourceError while the events cannot be stored.
        """
        ...

    def rescan(self) -> None:
        """Have the dispatchers read their outboxes again: notifications were retried or dropped."""
        ...

    async def reload(self) -> Sequence[str]:
        """Read the configuration again and apply it whole, or not at all. Returns what is wrong with it."""
        ...
