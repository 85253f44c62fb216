"""Configuration of the sources that speak PostgreSQL's protocol. Connection strings are composed by psycopg, never by
formatting."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from tocsin.settings import Duration, Secret, Settings


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be longer than 0")
    return value


def _filled(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("must not be empty" if not value else "must not contain a NUL character")
    return value


Positive = Annotated[Duration, AfterValidator(_positive)]
"""A duration longer than zero."""

Text = Annotated[str, AfterValidator(_filled), Field(json_schema_extra={"minLength": 1})]
"""Text that is not empty and that libpq can take."""


class SourceSettings(Settings):
    """What every source has."""

    delivers: ClassVar[Literal["rows", "events"]] = "rows"
    """Rows that come and go, or events."""
    subjects: ClassVar[tuple[str, ...]] = ("relation", "query")
    """What an alert on this source names, one of them: fields of `tocsin.sources.Subject`."""

    backoff_initial: Positive = 0.5
    """Pause before the first attempt to reconnect; it doubles with every failure."""
    backoff_max: Positive = 30.0
    """The longest such pause."""

    @model_validator(mode="after")
    def _backoff_in_order(self) -> Self:
        if self.backoff_initial > self.backoff_max:
            raise ValueError("backoff_initial is longer than backoff_max")
        return self


_IDENTITY = ("host", "port", "user", "database")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class Connection(SourceSettings):
    """How to reach a server, and what to do when it falls silent. Either `dsn`, or `host` and `user` with what goes
    with them."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["host", "user"]}, {"required": ["dsn"]}, {"required": ["dsn_file"]}]}
    )
    secrets: ClassVar[tuple[str, ...]] = ("password", "dsn")

    dsn: Secret | None = None
    """A whole connection string (`postgresql://user:password@host:6875/database` or `host=... user=...`) instead of
    `host`, `port`, `user` and `database`."""
    dsn_file: Path | None = None
    """A file that holds the `dsn`."""
    host: Text | None = None
    """Name or address of the server, or the directory of its socket. Required without `dsn`."""
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    """TCP port."""
    user: Text | None = None
    """Role to log in as. Required without `dsn`. It needs to read the relation and nothing else."""
    password: Secret | None = None
    """Password of the role."""
    password_file: Path | None = None
    """A file that holds the password."""
    database: Text = "postgres"
    """Database to connect to."""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """TLS, in libpq's words. Only `verify-full` makes sure that the server is the one that is meant."""
    sslrootcert: Text | None = None
    """File with the certificates to trust, or `system` for those of the operating system."""
    sslcert: Text | None = None
    """File with the client's certificate."""
    sslkey: Text | None = None
    """File with the client's key."""
    options: dict[str, Text] = Field(default_factory=dict)
    """Further session settings by name, set when the connection starts."""
    connect_timeout: Positive = 10.0
    """How long one attempt to connect, or a short question to the server, may take."""
    keepalives_idle: Positive = 15.0
    """After how much silence TCP asks whether the other side is still there. Three unanswered questions, a third of
    this apart, end the connection."""
    snapshot_timeout: Positive = 300.0
    """How long the source may stay silent before its first snapshot is complete. A server that has just started may
    have to read the view in first."""
    progress_timeout: Positive = 30.0
    """How long the source may stay silent after that before it counts as stalled."""
    on_stall: Literal["reconnect", "exit"] = "reconnect"
    """What to do about a stall: connect afresh, or end the process with exit code 124 so that a supervisor starts it
    anew."""
    stale_after: Positive = 300.0
    """How long the series of a source that gives nothing are still served before they are withdrawn."""

    @field_validator("options")
    @classmethod
    def _setting_names(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if not _SETTING.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a session setting")
        return options

    @field_validator("dsn")
    @classmethod
    def _dsn_parses(cls, dsn: Secret | None) -> Secret | None:
        if dsn is not None:
            _parse(dsn.get_secret_value())
        return dsn

    @model_validator(mode="after")
    def _one_way_to_connect(self) -> Self:
        if self.dsn is not None:
            both = [name for name in _IDENTITY if name in self.model_fields_set]
            if both:
                raise ValueError(f"give dsn, or {' and '.join(both)}, not both")
        else:
            missing = [name for name in ("host", "user") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"give {' and '.join(missing)}, or dsn")
        return self

    @model_validator(mode="after")
    def _times_in_order(self) -> Self:
        if self.stale_after < self.progress_timeout:
            raise ValueError(
                "stale_after is shorter than progress_timeout: series would go while the source still counts as live"
            )
        return self

    @property
    def display(self) -> str:
        """The server without secrets: `user@host:port/database`."""
        target = self._target()
        host = target.get("host") or target.get("hostaddr") or ""
        host = f"[{host}]" if ":" in host else host
        user = target.get("user")
        return f"{user + '@' if user else ''}{host}:{target['port']}/{target['dbname']}"

    def conninfo(self, **extra: str) -> str:
        """The connection string for libpq, `extra` parameters laid over it. It holds the password: never to be
        printed."""
        from psycopg.conninfo import make_conninfo

        return make_conninfo(**{**self._parameters(), **extra})

    def _session(self) -> dict[str, str]:
        """Settings that the session starts with; kinds of server add theirs."""
        return dict(self.options)

    def _target(self) -> dict[str, str]:
        if self.dsn is not None:
            defaults = {"port": str(self.port), "dbname": self.database}
            return {**defaults, **_parse(self.dsn.get_secret_value())}
        assert self.host is not None
        assert self.user is not None
        return {"host": self.host, "port": str(self.port), "user": self.user, "dbname": self.database}

    def _parameters(self) -> dict[str, str]:
        target = self._target()
        idle = math.ceil(self.keepalives_idle)
        given = self.model_fields_set if self.dsn is not None else type(self).model_fields.keys()
        own = {name: getattr(self, name) for name in ("sslmode", "sslrootcert", "sslcert", "sslkey") if name in given}
        if self.password is not None:
            own["password"] = self.password.get_secret_value()
        options = " ".join(
            part for part in (target.get("options"), *(_option(*item) for item in self._session().items())) if part
        )
        return {
            "application_name": "tocsin",
            "sslmode": self.sslmode,
            "connect_timeout": str(max(2, math.ceil(self.connect_timeout))),  # libpq makes 2 of 1
            "keepalives_idle": str(idle),
            "keepalives_interval": str(max(1, idle // 3)),
            "keepalives_count": "3",
            "client_encoding": "UTF8",
            **target,
            **{name: value for name, value in own.items() if value is not None},
            **({"options": options} if options else {}),
        }


class MaterializeConfig(Connection):
    """A Materialize server. Each alert holds one connection with one SUBSCRIBE."""

    port: Annotated[int, Field(ge=1, le=65535)] = 6875
    """TCP port."""
    database: Text = "materialize"
    """Database to connect to."""
    cluster: Text | None = None
    """Cluster that runs the subscriptions; without it the role's default."""
    isolation: Literal["serializable", "strict serializable"] | None = None
    """Isolation of the session. `serializable` starts at once on what is there, perhaps a moment old; `strict
    serializable` waits until the view is current. Without it the server's default."""
    progress_timeout: Positive = 30.0
    """How long the stream may stay silent before it counts as stalled. A healthy one speaks every second; a server that
    gives answers late for some seconds should not be burdened with new subscriptions, so this leaves it thirty."""
    identity_check: Duration = 60.0
    """How often to look whether the view's name still stands for the same object; `0` never. A view that is renamed
    away keeps streaming under its old definition, and nothing in the stream tells."""
    max_ahead: Positive = 60.0
    """How far the first progress row may be ahead of this machine's clock. A server restored from elsewhere may accept
    a time in the future and stay silent until it comes."""

    def _session(self) -> dict[str, str]:
        own: dict[str, str | None] = {"cluster": self.cluster, "transaction_isolation": self.isolation}
        return {**{name: value for name, value in own.items() if value}, **self.options}


class PostgresConfig(Connection):
    """A PostgreSQL server, whose relation or query is read on an interval and compared with the reading before."""

    interval: Positive = 10.0
    """Time between two readings when no NOTIFY comes."""
    notify: list[Text] = Field(default_factory=list)
    """Channels to LISTEN on: a NOTIFY on any of them calls for a reading at once."""
    statement_timeout: Positive = 30.0
    """How long one reading may take, after which the server ends it."""
    progress_timeout: Positive = 60.0
    """How long no reading may succeed before the source counts as stalled. More than `interval` and `statement_timeout`
    together."""

    @model_validator(mode="after")
    def _readings_fit(self) -> Self:
        if self.progress_timeout <= self.interval + self.statement_timeout:
            raise ValueError("progress_timeout must be longer than interval and statement_timeout together")
        return self

    def _session(self) -> dict[str, str]:
        return {"statement_timeout": f"{math.ceil(self.statement_timeout * 1000)}ms", **self.options}


def _option(name: str, value: str) -> str:
    """A session setting as an entry of libpq's `options`, where backslashes protect what separates entries."""
    return f"--{name}=" + re.sub(r"([\\\s])", r"\\\1", value)


def _parse(dsn: str) -> dict[str, str]:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parsed: dict[str, Any] = conninfo_to_dict(dsn)
    except ProgrammingError:
        # libpq's own message repeats parts of the string, which may be the password.
        raise ValueError("not a connection string; write postgresql://user:password@host:port/database") from None
    # libpq takes any text for a port and stumbles over it when it connects. Several hosts have several, with commas.
    for port in str(parsed.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError("the port in the connection string is not a number from 1 to 65535")
    return {name: str(value) for name, value in parsed.items() if value is not None}
