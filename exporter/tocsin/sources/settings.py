"""What the configuration of every source has, and that of the sources that speak PostgreSQL's protocol."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tocsin.postgres import OUTPUT, Positive, Server, SettingsMade, Text, milliseconds
from tocsin.settings import Duration, Settings, invalid

__all__ = [
    "Connection",
    "EventSourceSettings",
    "MaterializeConfig",
    "Positive",
    "PostgresConfig",
    "RowSourceSettings",
    "SourceSettings",
    "Text",
]


class SourceSettings(Settings):
    """What every source has in common."""

    delivers: ClassVar[Literal["rows", "events"]] = "rows"
    """Rows that come and go, or events."""
    subjects: ClassVar[tuple[str, ...]] = ("relation", "query")
    """What an alert on this source names, one of them: fields of `tocsin.sources.Subject`."""

    backoff_initial: Positive = 0.5
    """Pause before the first attempt to reconnect; it doubles with every failure."""
    backoff_max: Positive = 30.0
    """The longest such pause."""

    def advice(self) -> Mapping[str, str]:
        """Settings that are better changed -> why, for `tocsin check`."""
        return {}

    @property
    def progress_interval(self) -> float:
        """Seconds within which a healthy source of rows reports progress again."""
        return 1.0

    @property
    def exit_after(self) -> float | None:
        """Seconds without success after which the process ends; None: never."""
        return None

    @model_validator(mode="after")
    def _backoff_in_order(self) -> Self:
        if self.backoff_initial > self.backoff_max:
            raise invalid("order", "backoff_initial is longer than backoff_max")
        return self


class EventSourceSettings(SourceSettings):
    """What a source of events has."""

    delivers: ClassVar[Literal["rows", "events"]] = "events"
    subjects: ClassVar[tuple[str, ...]] = ("event",)


class RowSourceSettings(SourceSettings):
    """What a source of rows has."""

    on_stall: Literal["reconnect", "exit"] = "reconnect"
    """What to do about a stall: connect again, or end the process with exit code 124 so that a supervisor restarts
    it."""
    stale_after: Positive = 300.0
    """How long the series of a silent source are still served before they are withdrawn."""


class Connection(RowSourceSettings, Server):
    """How to reach a server whose rows are watched, and what to do when it is silent."""

    snapshot_timeout: Positive = 300.0
    """How long the source may be silent before its first snapshot is complete. A server that has just started may have
    to read the view in first."""
    progress_timeout: Positive = 30.0
    """How long the source may be silent after that before it counts as stalled."""

    @model_validator(mode="after")
    def _times_in_order(self) -> Self:
        if self.stale_after < self.progress_timeout:
            raise invalid(
                "order",
                "stale_after is shorter than progress_timeout: series would be withdrawn while the source counts as up",
            )
        return self


class MaterializeConfig(Connection):
    """A Materialize server: `SUBSCRIBE` to a view or query. Changes arrive within milliseconds; after a restart the
    history since the last one is read. Each alert uses one connection, and the source one more."""

    output: ClassVar[Mapping[str, str]] = {name: OUTPUT[name] for name in ("TimeZone", "DateStyle", "IntervalStyle")}
    settings_made: ClassVar[SettingsMade] = "at login"

    port: Annotated[int, Field(ge=1, le=65535)] = 6875
    """TCP port."""
    database: Text = "materialize"
    """Database to connect to."""
    cluster: Text | None = None
    """Cluster that runs the subscriptions; without it the role's default."""
    isolation: Literal["serializable", "strict serializable"] | None = None
    """Isolation of the session. `serializable` starts at once, with rows that may be a moment old; `strict
    serializable` waits until the view is current. Without it the server's default."""
    progress_timeout: Positive = 30.0
    """How long the stream may be silent before it counts as stalled. A healthy one makes progress every second; the
    default spares a server that is slow for some seconds the burden of new subscriptions."""
    identity_check: Duration = 1.0
    """The longest time between two checks whether the names in a relation, a query or `cluster` still refer to the same
    objects; `0`: never. After a rename or swap a subscription goes on with the old objects, without any sign in the
    stream. Within 30 s, or with each check if they are rarer, it also asks whether the role may still read
    them. The checks of all alerts share one connection."""
    max_ahead: Positive = 60.0
    """How far the first progress row may be ahead of this machine's clock. A server restored from elsewhere may accept
    a time in the future, and be silent until then."""

    def _own_settings(self) -> dict[str, str]:
        own = {"cluster": self.cluster, "transaction_isolation": self.isolation}
        return {name: value for name, value in own.items() if value}


class PostgresConfig(Connection):
    """A PostgreSQL server, whose relation or query is read on an interval, and at once on NOTIFY, and compared with the
    previous reading."""

    output: ClassVar[Mapping[str, str]] = OUTPUT
    settings_made: ClassVar[SettingsMade] = "in transactions"

    interval: Positive = 10.0
    """Time between two readings when no NOTIFY comes."""
    notify: list[Text] = Field(default_factory=list)
    """Channels to LISTEN on: a NOTIFY on any of them causes a reading at once. A standby accepts no LISTEN: its rows
    are read every `interval` until it is promoted."""
    statement_timeout: Positive = 30.0
    """How long one reading may take before the server ends it."""
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 10
    """Connections that the source holds at most. The readings of all its alerts share them, in the order in which they
    become due; with `notify`, one of them listens. Keep it below the server's limit for the role."""
    progress_timeout: Positive = 60.0
    """How long no reading may succeed before the source counts as stalled. Longer than `interval` and
    `statement_timeout` together."""

    @property
    def progress_interval(self) -> float:
        """See `SourceSettings`: the time between two readings."""
        return self.interval

    @model_validator(mode="after")
    def _readings_fit(self) -> Self:
        if self.progress_timeout <= self.interval + self.statement_timeout:
            raise invalid("order", "progress_timeout must be longer than interval and statement_timeout together")
        if self.notify and self.max_connections < 2:
            raise invalid("order", "max_connections must be at least 2 with notify: one connection listens")
        return self

    @property
    def at_limit(self) -> str:
        """See `Server`."""
        return f"lower max_connections, which is {self.max_connections}, or allow the role more connections"

    def _own_settings(self) -> dict[str, str]:
        return {"statement_timeout": milliseconds(self.statement_timeout)}
