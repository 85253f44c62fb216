"""The settings of servers that speak PostgreSQL's protocol, which sources and channels share."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, LiteralString, Self, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from tocsin.postgres.names import MAX_NAME, name_parts
from tocsin.settings import Duration, HostAlone, Secret, Settings, invalid

BEGIN = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED")
"""Begins a transaction that sees what others commit, whatever the default of the role or the database is."""

OUTPUT: Mapping[str, str] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",  # without an order of day and month: how the session reads dates stays as it is
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmlbinary": "base64",
    "quote_all_identifiers": "off",
}
"""Session settings that decide how PostgreSQL writes a value as text, at their defaults. A row is identified by its
text, so a source sets them itself, whatever the defaults of the role, the database or the server are."""


def _positive(value: float) -> float:
    if value <= 0:
        raise invalid("positive", "must be longer than 0")
    return value


def _filled(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("must not be empty" if not value else "must not contain a NUL character")
    return value


Positive = Annotated[Duration, AfterValidator(_positive)]
"""A duration longer than zero."""

Text = Annotated[str, AfterValidator(_filled), Field(json_schema_extra={"minLength": 1})]
"""Text that is not empty and that libpq accepts."""


def _short(value: str) -> str:
    if len(value.encode("utf-8", "replace")) > MAX_NAME:
        raise ValueError(f"must not be longer than {MAX_NAME} bytes")
    return value


def milliseconds(seconds: float) -> str:
    """Return a limit of time as a setting of the server, which takes at most 24 days."""
    return f"{min(math.ceil(seconds * 1000), 2**31 - 1)}ms"


def _relation_name(value: str) -> str:
    for part in name_parts(value):
        _short(part)
    return value


Name = Annotated[Text, AfterValidator(_short)]
"""The exact name of a column, or of a channel of NOTIFY: it is quoted wherever it is used."""

RelationName = Annotated[Text, AfterValidator(_relation_name)]
"""A relation's name as SQL writes it; see `relation`."""


SettingsMade: TypeAlias = Literal["at login", "after login", "in transactions"]

_IDENTITY = ("host", "port", "user", "database")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_JIT_AT_LOGIN = ("jit_debugging_support", "jit_profiling_support")
_AT_LOGIN_ONLY = (*_JIT_AT_LOGIN, "ignore_system_indexes", "log_connections", "log_disconnections", "post_auth_delay")
"""Settings that PostgreSQL accepts from the login alone."""


class Server(Settings):
    """How to reach a server that speaks PostgreSQL's protocol: `dsn`, or `host` and `user` and related settings."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["host", "user"]}, {"required": ["dsn"]}, {"required": ["dsn_file"]}]}
    )
    secrets: ClassVar[tuple[str, ...]] = ("password", "dsn")
    output: ClassVar[Mapping[str, str]] = {}
    """Session settings that this kind of server needs unless they are configured. A server that does not know one is
    used without it."""
    settings_made: ClassVar[SettingsMade] = "after login"
    """When the session settings are made. A pooler may refuse or drop those of the login, and run each transaction in
    another session."""

    dsn: Secret | None = None
    """A whole connection string (`postgresql://user:password@host:6875/database` or `host=... user=...`) instead of
    `host`, `port`, `user` and `database`."""
    dsn_file: Path | None = None
    """A file that holds the `dsn`."""
    host: Annotated[Text, HostAlone] | None = None
    """Name or address of the server, or the directory of its socket. Required without `dsn`."""
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    """TCP port."""
    user: Text | None = None
    """Role to log in as. Required without `dsn`. Grant it no more than it needs."""
    password: Secret | None = None
    """Password of the role."""
    password_file: Path | None = None
    """A file that holds the password."""
    database: Text = "postgres"
    """Database to connect to."""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """TLS mode of libpq. Only `verify-full` verifies that it is the right server."""
    sslrootcert: Text | None = None
    """File with the certificates to trust, or `system` for those of the operating system."""
    sslcert: Text | None = None
    """File with the client's certificate."""
    sslkey: Text | None = None
    """File with the client's key."""
    options: dict[str, Text] = Field(default_factory=dict)
    """Further session settings by name. Sources read values with `TimeZone: UTC`, `DateStyle: ISO`, `IntervalStyle:
    postgres`, `bytea_output: hex`, `extra_float_digits: 1`, `xmlbinary: base64` and `quote_all_identifiers: off`,
    whatever the defaults of the role, the database or the server are. Set other values here."""
    connect_timeout: Positive = 10.0
    """How long one attempt to connect, or a short query, may take."""
    keepalives_idle: Positive = 15.0
    """Silence after which TCP probes the connection. Three unanswered probes, a third of this apart, end it."""

    @field_validator("options")
    @classmethod
    def _setting_names(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if not _SETTING.fullmatch(name):
                raise invalid("name", "{name} is not the name of a session setting", name=repr(name))
        return options

    @field_validator("dsn")
    @classmethod
    def _dsn_parses(cls, dsn: Secret | None) -> Secret | None:
        if dsn is not None:
            parsed(dsn.get_secret_value())
        return dsn

    @model_validator(mode="after")
    def _one_way_to_connect(self) -> Self:
        if self.dsn is not None:
            both = [name for name in _IDENTITY if name in self.model_fields_set]
            if both:
                raise invalid("not_both", "set dsn, or {others}, not both", others=" and ".join(both))
        else:
            missing = [name for name in ("host", "user") if getattr(self, name) is None]
            if missing:
                raise invalid("needs", "set {missing}, or dsn", missing=" and ".join(missing))
        return self

    @property
    def display(self) -> str:
        """The server without secrets: `user@host:port/database`."""
        target = self._target()
        hosts = [
            f"[{host}]" if ":" in host else host
            for host in (target.get("host") or target.get("hostaddr") or "").split(",")
        ]
        ports = [port or "5432" for port in target["port"].split(",")]
        if len(ports) == len(hosts):
            hosts = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
        else:
            hosts[-1] += f":{ports[0]}"
        user = target.get("user")
        return f"{user + '@' if user else ''}{','.join(hosts)}/{target['dbname']}"

    @property
    def role(self) -> str | None:
        """The role that logs in, if it is named."""
        return self._target().get("user")

    @property
    def at_limit(self) -> str:
        """What to do when the server refuses more connections."""
        return "allow the role more connections"

    @property
    def dsn_password(self) -> str | None:
        """The password in `dsn`, if there is one, which must not be shown."""
        return None if self.dsn is None else self._target().get("password")

    def conninfo(self) -> str:
        """The connection string for libpq. It contains the password: do not print it."""
        target = self._target()
        idle = math.ceil(self.keepalives_idle)
        given = self.model_fields_set if self.dsn is not None else type(self).model_fields.keys()
        own = {name: getattr(self, name) for name in ("sslmode", "sslrootcert", "sslcert", "sslkey") if name in given}
        if self.password is not None:
            own["password"] = self.password.get_secret_value()
        _, others = self._dsn_options
        at_login = self._session() if self.settings_made == "at login" else {}
        options = " ".join((*others, *(_option(*item) for item in at_login.items())))
        parameters = {
            "application_name": "tocsin",
            "sslmode": self.sslmode,
            "connect_timeout": str(max(2, math.ceil(self.connect_timeout))),  # libpq makes 2 of 1
            "keepalives_idle": str(idle),
            "keepalives_interval": str(max(1, idle // 3)),
            "keepalives_count": "3",
            **target,
            "client_encoding": "UTF8",  # also over a dsn that names another: rows are read as UTF-8
            **{name: value for name, value in own.items() if value is not None},
            "options": options or None,
        }
        return make_conninfo(**parameters)

    def configured(self) -> list[sql.Composed]:
        """Statements for after the login that make the settings of the session."""
        if self.settings_made != "after login":
            return []
        call = sql.SQL("pg_catalog.set_config({}, {}, false)")
        calls = [call.format(sql.Literal(name), sql.Literal(value)) for name, value in self._session().items()]
        return [sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls))] if calls else []

    def begin(self) -> sql.Composed:
        """SQL that begins a transaction with the session's settings."""
        return sql.SQL("; ").join(self.beginning())

    def beginning(self) -> list[sql.Composable]:
        """The statements that begin a transaction. Of `output`, a server may not know some."""
        known: LiteralString = (
            "SELECT pg_catalog.set_config(name, value, true) FROM (VALUES {}) AS wanted (name, value)"
            " WHERE pg_catalog.current_setting(name, true) IS NOT NULL"
        )
        steps = [BEGIN, *(_made(*setting) for setting in self._session().items())]
        if output := self.asked_output():
            steps.append(sql.SQL(known).format(sql.SQL(", ").join(map(_pair, output.items()))))
        return steps

    def asked_output(self) -> dict[str, str]:
        """Those of `output` that the configuration does not set itself."""
        configured = {name.casefold() for name in self._session()}
        return {name: value for name, value in self.output.items() if name.casefold() not in configured}

    def _session(self) -> dict[str, str]:
        """The settings of a session; of two for one name the last counts."""
        return {**self._dsn_options[0], **self._own_settings(), **self.options}

    def _own_settings(self) -> dict[str, str]:
        """The settings that this kind of server needs."""
        return {}

    @property
    def _dsn_options(self) -> tuple[dict[str, str], list[str]]:
        """The settings in the `options` of `dsn`, and what else is in there."""
        settings: dict[str, str] = {}
        others: list[str] = []
        parts = iter(re.findall(r"(?:\\.|[^\\\s])+", self._target().get("options", ""), re.DOTALL))
        for part in parts:
            whole = f"-c{next(parts, '')}" if part == "-c" else part
            name, equals, value = whole[2:].partition("=")
            name = name.replace("-", "_")
            if whole[:2] in ("-c", "--") and equals and name not in _AT_LOGIN_ONLY:
                settings[name] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
            else:
                others.append(whole)
        return settings, others

    def _target(self) -> dict[str, str]:
        if self.dsn is not None:
            defaults = {"port": str(self.port), "dbname": self.database}
            return {**defaults, **parsed(self.dsn.get_secret_value())}
        assert self.host is not None
        assert self.user is not None
        return {"host": self.host, "port": str(self.port), "user": self.user, "dbname": self.database}


_LISTS = ("search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries")
"""Settings that are lists of names: `SET` takes a text for one of them."""


def _made(name: str, value: str) -> sql.Composable:
    """The statement that makes a setting for a transaction. `SET` takes half the time of the function."""
    if name.casefold() in _LISTS:
        return sql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
    return sql.SQL("SET LOCAL {} TO {}").format(sql.Identifier(*name.split(".")), sql.Literal(value))


def _pair(setting: tuple[str, str]) -> sql.Composed:
    return sql.SQL("({}, {})").format(*map(sql.Literal, setting))


def _option(name: str, value: str) -> str:
    """A session setting as an entry of libpq's `options`, where backslashes protect what separates entries."""
    return f"--{name}=" + re.sub(r"([\\\s])", r"\\\1", value)


def without_password(dsn: Secret) -> dict[str, str]:
    """The parts of a connection string but for the password. Raises ValueError without any of its text."""
    return {name: value for name, value in parsed(dsn.get_secret_value()).items() if name != "password"}


def parsed(dsn: str) -> dict[str, str]:
    """The parts of a connection string. Raises ValueError without any of its text."""
    try:
        parts: dict[str, Any] = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq's message repeats parts of the string, possibly the password.
        raise ValueError("not a connection string; write postgresql://user:password@host:port/database") from None
    # libpq accepts any text for a port and fails over it when it connects. Several hosts have several, with commas.
    for port in str(parts.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError("the port in the connection string is not a number from 1 to 65535")
    return {name: str(value) for name, value in parts.items() if value is not None}
