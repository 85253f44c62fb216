"""What is known of one key of an alert. Times are wall-clock seconds unless they are source times in milliseconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tocsin.alert import Alert
from tocsin.envelope import View
from tocsin.explain.keys import Asked, Found
from tocsin.exposition import AlertStatus
from tocsin.firing import Firing
from tocsin.ledger.base import Attempt, Line, Record
from tocsin.model import Columns
from tocsin.pipeline.routing import Route
from tocsin.silences import Silence
from tocsin.silences.ending import Held


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFacts:
    """A channel or level output of the alert."""

    name: str
    kind: str = ""
    """Its type; empty where it is not configured."""
    route: Route | None = None
    """How the alert notifies it; None: it does not, any more."""
    state: str | None = None
    """None: no process was asked, or the channel does not run there."""
    message: str = ""
    opens_in: float = 0.0
    """Seconds until it may send again."""
    is_limited: bool = False
    """Whether only its rate limit is the reason."""
    accepted: Mapping[str, bool] | None = None
    """Of a level output, by receiver: whether it has accepted the firing."""
    line: Line | None = None
    """What is pending of the group, the order or the key that the row belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationFacts:
    """One notification, as the ledger has it."""

    record: Record
    attempts: Sequence[Attempt] = ()
    """Those that failed, oldest first."""
    request: Mapping[str, Any] | None = None
    """The channel's preview."""
    request_error: str = ""
    """Why there is none."""
    line: Line | None = None
    """What is pending of its ordering key, if it is pending."""
    silence: Silence | None = None
    """What holds it back."""
    held: Sequence[Held] = ()
    """All that silences hold of its row, in the order of `seq`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One key of an alert."""

    now: float
    alert: Alert
    view: View
    asked: Asked
    found: Found
    running: bool
    """Whether a running process was asked."""
    status: AlertStatus | None = None
    """None: the alert does not run in the process that was asked."""
    leader: str = ""
    """The process that leads the alert, if it is another one."""
    columns: Columns = ()
    """Those of `firing`."""
    firing: Firing | None = None
    """The key in the firing set; None: it is not there."""
    rows_known: bool = False
    """Whether the firing set is known: of the process, or else of the ledger."""
    frontier: int | None = None
    """Source ms; of the firing set."""
    channels: Sequence[ChannelFacts] = ()
    silences: Sequence[Silence] = ()
    """Those that are active."""
    notifications: Sequence[NotificationFacts] = ()
    """Of the newest episode of the key, oldest first."""
    history: float = 0.0
    """Seconds for which the ledger keeps notifications."""
