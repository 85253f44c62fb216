"""The status of an alert and of a channel, as metrics, the status page and the commands show it."""

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
    state: State = State.STARTING
    message: str = ""
    """Why it is not up."""
    doubt: str = ""
    """Why it is not known whether the rows are those of the configured relation."""
    note: str = ""
    """What of the source does not work although rows arrive; see `Batch.note`."""
    last_error: str = ""
    """The last fault of the source since the start, also if it is over, or how its relation was replaced."""
    last_error_at: float | None = None
    """When that was, in wall-clock seconds."""
    next_attempt: float | None = None
    """When the source is tried again after a fault, in wall-clock seconds; None: it is being tried, or works."""
    leads: bool | None = None
    """Whether this process leads it; None for an alert on events, which all processes take."""
    firing: int = 0
    pending: int = 0
    frontier: int | None = None
    """Source time in ms; None: not known yet."""
    last_progress: float | None = None
    """Wall-clock seconds; None: not known yet."""
    progress_interval: float | None = None
    """Seconds within which a healthy source reports progress again; None for an alert on events."""
    gaps: int = 0
    series: int | None = None
    """Series of the gauge that a scrape serves; None: the alert has no gauge."""
    dropped: int | None = None
    """Series of the gauge beyond `max_series`."""
    duplicates: int | None = None
    """Rows that joined a label set which another row already had, since the start."""
    events: int | None = None
    """Events received since the start of the process; None for an alert on rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """A channel as its gauges show it."""

    up: bool | None = True
    """None: it is no longer configured."""
    state: str | None = None
    """One of `CHANNEL_STATES`; None: it does not run."""
    pending: int = 0
    oldest_pending: float | None = None
    """Wall-clock seconds; None: nothing is pending."""
    silenced: int = 0
    """Notifications that silences hold now."""
    oldest_silenced: float | None = None
    """Wall-clock seconds; None: nothing is held."""
    dead: int = 0
    """Dead letters now."""
    missing: int | None = None
    """Alerts that a receiver accepted and does not know; None for a channel with an outbox."""
