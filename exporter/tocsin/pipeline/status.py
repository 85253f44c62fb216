"""The status of an alert, as the status page and the commands show it."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of an alert."""

    STARTING = "starting"
    UP = "up"
    ERROR = "error"
    STALE = "stale"
    """The source made no progress for `stale_after`; the series are withdrawn."""
    REFUSING = "refusing"
    """The source delivers only messages that are not valid events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertStatus:
    """The status of one alert at one moment."""

    name: str
    source: str
    state: State
    message: str = ""
    """Why it is not up."""
    doubt: str = ""
    """Why it is not known whether the rows are those of the configured relation."""
    note: str = ""
    """What of the source does not work although rows arrive; see `Batch.note`."""
    firing: int = 0
    pending: int = 0
    frontier: int | None = None
    """Source time in ms; None: not known yet."""
    last_progress: float | None = None
    """Wall-clock seconds; None: not known yet."""
    gaps: int = 0
    series: int = 0
    """Series of the gauge that a scrape serves."""
    dropped: int = 0
    """Series of the gauge beyond `max_series`."""
    events: int | None = None
    """Events received since the start of the process; None for an alert on rows."""


class Stall(Exception):  # noqa: N818 - not an error of the program but a reason to end it
    """A source stalled and its configuration says to end the process then."""
