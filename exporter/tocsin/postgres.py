"""Servers that speak PostgreSQL's protocol: the settings that sources and channels share, connections, and names as SQL
writes them."""

import asyncio
import contextlib
import functools
import math
import re
import traceback
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from tocsin.settings import Duration, Secret, Settings, invalid

T = TypeVar("T")
PgConnection: TypeAlias = psycopg.AsyncConnection[tuple[Any, ...]]
log = structlog.get_logger(__name__)

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

MAX_NAME = 63
"""Bytes. PostgreSQL truncates longer names in some places and refuses them in others."""


def _short(value: str) -> str:
    if len(value.encode("utf-8", "replace")) > MAX_NAME:
        raise ValueError(f"must not be longer than {MAX_NAME} bytes")
    return value


def _relation_name(value: str) -> str:
    for part in name_parts(value):
        _short(part)
    return value


Name = Annotated[Text, AfterValidator(_short)]
"""The exact name of a column, or of a channel of NOTIFY: it is quoted wherever it is used."""

RelationName = Annotated[Text, AfterValidator(_relation_name)]
"""A relation's name as SQL writes it; see `relation`."""


_IDENTITY = ("host", "port", "user", "database")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_STARTUP_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.-]*)=")


class Server(Settings):
    """How to reach a server that speaks PostgreSQL's protocol: `dsn`, or `host` and `user` and related settings."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["host", "user"]}, {"required": ["dsn"]}, {"required": ["dsn_file"]}]}
    )
    secrets: ClassVar[tuple[str, ...]] = ("password", "dsn")
    output: ClassVar[Mapping[str, str]] = {}
    """Session settings that this kind of server needs unless they are configured. A server that does not know one is
    used without it."""
    set_in_transactions: ClassVar[bool] = False
    """Whether each transaction makes the settings itself: then a pooler may run each in another session."""

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
            _parse(dsn.get_secret_value())
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
        host = target.get("host") or target.get("hostaddr") or ""
        host = f"[{host}]" if ":" in host else host
        user = target.get("user")
        return f"{user + '@' if user else ''}{host}:{target['port']}/{target['dbname']}"

    @property
    def role(self) -> str | None:
        """The role that logs in, if it is named."""
        return self._target().get("user")

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
        options = " ".join(
            part for part in (target.get("options"), *(_option(*item) for item in self._startup().items())) if part
        )
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
            **({"options": options} if options else {}),
        }
        return make_conninfo(**parameters)

    def configured(self) -> list[sql.Composed]:
        """Statements for after the login that set what is configured: poolers refuse it in the startup packet."""
        call = sql.SQL("pg_catalog.set_config({}, {}, false)")
        calls = [call.format(sql.Literal(name), sql.Literal(value)) for name, value in self._session().items()]
        return [sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls))] if calls else []

    def asked_output(self) -> dict[str, str]:
        """Those of `output` that the configuration does not set itself."""
        named = {*self._session(), *self._startup(), *_STARTUP_OPTION.findall(self._target().get("options", ""))}
        configured = {name.replace("-", "_").casefold() for name in named}
        return {name: value for name, value in self.output.items() if name.casefold() not in configured}

    def _session(self) -> dict[str, str]:
        """Settings to set after the login; kinds of server add theirs."""
        return dict(self.options)

    def _startup(self) -> dict[str, str]:
        """Settings to send in the startup packet."""
        return {}

    def _target(self) -> dict[str, str]:
        if self.dsn is not None:
            defaults = {"port": str(self.port), "dbname": self.database}
            return {**defaults, **_parse(self.dsn.get_secret_value())}
        assert self.host is not None
        assert self.user is not None
        return {"host": self.host, "port": str(self.port), "user": self.user, "dbname": self.database}


def _option(name: str, value: str) -> str:
    """A session setting as an entry of libpq's `options`, where backslashes protect what separates entries."""
    return f"--{name}=" + re.sub(r"([\\\s])", r"\\\1", value)


def _parse(dsn: str) -> dict[str, str]:
    try:
        parsed: dict[str, Any] = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq's message repeats parts of the string, possibly the password.
        raise ValueError("not a connection string; write postgresql://user:password@host:port/database") from None
    # libpq accepts any text for a port and fails over it when it connects. Several hosts have several, with commas.
    for port in str(parsed.get("port") or "").split(","):
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError("the port in the connection string is not a number from 1 to 65535")
    return {name: str(value) for name, value in parsed.items() if value is not None}


async def connected(server: Server) -> PgConnection:
    """A connection that commits every statement, prepares none, and has the settings of `server`.

    Raises psycopg.Error without an SQLSTATE, and TimeoutError if the server does not answer within `connect_timeout`.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(server.conninfo(), autocommit=True, prepare_threshold=None)
    except BaseException as error:
        # psycopg closes a half-open connection only when its frames are freed, which a kept error prevents.
        traceback.clear_frames(error.__traceback__)
        raise
    try:
        await within(server.connect_timeout, connection, _set_up(connection, server))
    except BaseException:
        connection.pgconn.finish()
        await connection.close()
        raise
    return connection


async def _set_up(connection: PgConnection, server: Server) -> None:
    """Set the configured settings, and those of `output` that the server does not report to be right already."""
    reported, output = connection.info.parameter_status, server.asked_output()
    zone = reported("TimeZone")
    if "TimeZone" in output and zone not in (None, *_UTC):
        _inform_of_zone(server.display, zone)
    if server.set_in_transactions:
        return
    try:
        for statement in server.configured():
            await connection.execute(statement)
    except psycopg.Error as error:
        # An error of the login, not of a statement: the statement of the caller is not at fault.
        raise psycopg.OperationalError(f"the session settings are refused: {error}") from None
    for name, value in output.items():
        if (reported(name) or "").split(",")[0] != value:
            with contextlib.suppress(psycopg.DatabaseError):  # a server may not know it
                await connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        now = reported(name)
        if now is not None and now.split(",")[0] != value:
            log.warning("the server does not accept a setting", server=server.display, setting=name, value=now)


_UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Universal", "UCT")


@functools.cache
def _inform_of_zone(server: str, zone: str | None) -> None:
    """Once for each server, since every alert has its own connection."""
    log.info(
        "queries run in UTC, not in the time zone of the role; set `options: {TimeZone: ...}` for another",
        server=server,
        role=zone,
    )


async def within(seconds: float, connection: PgConnection, work: Awaitable[T]) -> T:
    """Wait for some work on a connection. Raises TimeoutError.

    After a timeout or a cancellation the connection is closed first: psycopg would ask the server to cancel and wait
    seconds for its answer, and the server may be gone.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            connection.pgconn.finish()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


_ATTEMPT = re.compile(r"^- host: .*?, port: .*?, hostaddr: .*?: ", re.MULTILINE)
"""What psycopg writes before the failure of each of several addresses."""
_PREFIX = re.compile(r"^connection (failed|is bad): (?=connection to )")


def failure_text(error: BaseException) -> str:
    """Return the text of an error of psycopg in one line: each failure once, without the hints of libpq, which are
    lines that begin with a tab."""
    summary, *attempts = _ATTEMPT.split(str(error))
    lines = [line for part in attempts or [summary] for line in part.splitlines() if not line.startswith("\t")]
    texts = dict.fromkeys(" ".join(_PREFIX.sub("", line).split()) for line in lines)
    return "; ".join(text for text in texts if text) or type(error).__name__


def about_login(text: str) -> bool:
    """Whether the server's message about a failed connection says that the role or its password is wrong.

    libpq passes no SQLSTATE of a failed login, so only the text of the server distinguishes the causes.
    """
    return re.search(r"authentication|password|no pg_hba|login blocked|role .* does not exist", text) is not None


def relation(name: str) -> sql.Identifier:
    """A relation's name as SQL writes it (`schema.view`, `"Mixed Case".view`) as a quoted identifier.

    Unquoted parts are folded to lower case, as PostgreSQL and Materialize do. Raises ValueError for anything
    else.
    """
    return sql.Identifier(*name_parts(name))


def name_parts(name: str) -> tuple[str, ...]:
    """The parts of a relation's name, as in the catalog. Raises ValueError as `relation` does."""
    parts = re.findall(r'"((?:[^"]|"")+)"|([A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)', name)
    written = ".".join(f'"{quoted}"' if quoted else plain for quoted, plain in parts)
    if not parts or written != name or len(parts) > 3:
        raise ValueError(
            f'{name!r} is not a relation name; write schema.name, with double quotes where needed: "My View"'
        )
    return tuple(quoted.replace('""', '"') if quoted else plain.lower() for quoted, plain in parts)


def script(steps: Iterable[sql.Composable]) -> str:
    """SQL for an administrator to read and run: the steps in one transaction."""
    whole = [sql.SQL("BEGIN;"), *steps, sql.SQL("COMMIT;")]
    return sql.SQL("\n\n").join(whole).as_string(None) + "\n"


def granted(role: str | None, rights: Mapping[str, Sequence[str]]) -> list[sql.Composed]:
    """Statements that create a role if it does not exist and grant it rights on relations and their schemas; none
    without a role."""
    if role is None:
        return []
    name, text = sql.Identifier(role), sql.Literal(role)
    made = sql.SQL(
        "\nBEGIN\n  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN CREATE ROLE {} LOGIN; END IF;\nEND\n"
    )
    schemas = sorted({parts[-2] for parts in map(name_parts, rights) if len(parts) > 1})
    lines = [sql.SQL("DO {};").format(code(made.format(text, name)))]
    lines += [sql.SQL("GRANT USAGE ON SCHEMA {} TO {};").format(sql.Identifier(schema), name) for schema in schemas]
    lines += [
        sql.SQL("GRANT {} ON {} TO {};").format(sql.SQL(", ".join(allowed)), relation(table), name)
        for table, allowed in rights.items()
    ]
    return [sql.SQL("\n").join(lines)]


def code(body: sql.Composed) -> sql.Composable:
    """The text of a function, quoted with dollars if it has none itself, so that it is readable."""
    text = body.as_string(None)
    return sql.Literal(text) if "$" in text else sql.SQL("$${}$$").format(body)


def derived_name(of: Sequence[str], suffix: str) -> str:
    """A name for an object that belongs to a relation, without its schema, short enough for PostgreSQL."""
    return of[-1].encode()[: MAX_NAME - len(suffix)].decode(errors="ignore") + suffix
