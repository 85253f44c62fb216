"""The connection string that was answered, and the source that is written for it. Pure."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tocsin.postgres import parsed
from tocsin.settings import Secret
from tocsin.sources.settings import PostgresConfig

_SETTINGS = {"sslmode", "sslrootcert", "sslcert", "sslkey"}
_PARTS = {"host", "port", "user", "dbname", "password", *_SETTINGS}
_MATERIALIZE, _POSTGRES = (
    "postgresql://materialize@127.0.0.1:6875/materialize",
    "postgresql://postgres@127.0.0.1/postgres",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach a server."""

    parts: Mapping[str, str]
    """Of the connection string, without the password."""
    password: str = ""
    """That of the connection string, or one that was asked for; to be written to a file of its own."""
    from_variable: bool = False
    """Whether $PGPASSWORD has the password."""

    def server(self) -> PostgresConfig:
        """To ask it now, whichever it is."""
        return PostgresConfig(dsn=Secret(self._text(with_password=True)), connect_timeout=5.0)

    def settings(self) -> dict[str, str]:
        """What is written, without `type` and the password."""
        if set(self.parts) - _PARTS or "," in self.parts.get("host", "") or "host" not in self.parts:
            return {"dsn": self._text(with_password=False)}
        order = ("host", "port", "user", "dbname", *sorted(_SETTINGS))
        return {"database" if name == "dbname" else name: self.parts[name] for name in order if name in self.parts}

    def _text(self, *, with_password: bool) -> str:
        parts = {**self.parts, **({"password": self.password} if with_password and self.password else {})}
        quoted = {name: text.replace("\\", "\\\\").replace("'", "\\'") for name, text in parts.items()}
        return " ".join(f"{name}='{text}'" for name, text in quoted.items())


def connection(dsn: str, environ: Mapping[str, str], password: str = "") -> Connection:
    """Read a connection string; parts that it lacks come from the variables of libpq. Raises ValueError without any of
    its text."""
    named = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE", "sslmode": "PGSSLMODE"}
    found = parsed(dsn)
    parts = {name: environ[variable] for name, variable in named.items() if environ.get(variable)} | found
    if "service" not in parts and "hostaddr" not in parts:
        parts.setdefault("host", "127.0.0.1")
        parts.setdefault("user", environ.get("USER") or _login())
        parts.setdefault("dbname", parts["user"])
    own = parts.pop("password", "") or password
    return Connection(parts=parts, password=own, from_variable=not own and bool(environ.get("PGPASSWORD")))


def default_dsn(environ: Mapping[str, str], port_is_open: bool) -> str:
    """The connection string to propose: that of the environment, or a Materialize on this machine."""
    if environ.get("DATABASE_URL"):
        return environ["DATABASE_URL"]
    if environ.get("PGHOST"):
        return "postgresql://"
    return _MATERIALIZE if port_is_open else _POSTGRES


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "postgres" if os.geteuid() == 0 else "tocsin"
