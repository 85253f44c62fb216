"""A session with Materialize: waits for the server, reads its catalog, runs statements."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tocsin_setup.errors import SetupError
from tocsin_setup.plan import Catalog, Found
from tocsin_setup.trouble import Answer, is_final

_STEP = 1.0  # seconds between two tries
_REMIND = 30.0  # seconds between two lines about the same trouble
_CONNECT_TIMEOUT = 5

# Ids are unique only within a kind: a cluster and a table may both be u1, so comments are joined by kind as well.
_OBJECTS = """
SELECT o.name, o.type, c.comment
FROM mz_catalog.mz_objects AS o
JOIN mz_catalog.mz_schemas AS s ON s.id = o.schema_id
JOIN mz_catalog.mz_databases AS d ON d.id = s.database_id
LEFT JOIN mz_internal.mz_comments AS c ON c.id = o.id AND c.object_type = o.type AND c.object_sub_id IS NULL
WHERE d.name = current_database() AND s.name = %s
"""
_SCHEMAS = """
SELECT s.name FROM mz_catalog.mz_schemas AS s JOIN mz_catalog.mz_databases AS d ON d.id = s.database_id
WHERE d.name = current_database()
"""


class StatementError(Exception):
    """The server refused a statement."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer


class LostError(Exception):
    """The connection is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How waiting is done: `say` prints a line, `monotonic` and `sleep` are the clock, `deadline` a reading of it."""

    say: Callable[[str], None]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    deadline: float

    def within(self, seconds: float) -> "Patience":
        """The same, but no longer than this from now."""
        deadline = min(self.deadline, self.monotonic() + seconds)
        return Patience(say=self.say, monotonic=self.monotonic, sleep=self.sleep, deadline=deadline)


class Waiting:
    """Says what is waited for: once, again when the reason changes, and now and then."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._said: tuple[str, float] | None = None

    def on(self, what: str, why: str) -> None:
        """Wait a moment.

        Raises:
            SetupError: the time is up.
        """
        now = self._patience.monotonic()
        if now >= self._patience.deadline:
            raise SetupError(f"gave up waiting for {what}: {why}")
        line = f"waiting for {what}: {why}"
        if self._said is None or self._said[0] != line or now - self._said[1] >= _REMIND:
            self._patience.say(line)
            self._said = (line, now)
        self._patience.sleep(min(_STEP, max(0.0, self._patience.deadline - now)))


class Server:
    """A connection that is made when it is needed, and again when it was lost.

    Args:
        dsn: a connection string; never shown.
        patience: for how long to try.

    Raises:
        SetupError: the connection string is none.
    """

    def __init__(self, dsn: str, patience: Patience) -> None:
        try:
            parts = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            # What libpq says repeats a piece of it, which may be the password.
            raise SetupError("this is no connection string, such as postgresql://user@host:6875/database") from None
        self.name = f"{parts.get('host') or parts.get('hostaddr') or 'the default host'}:{parts.get('port') or 6875}"
        self._dsn = dsn
        self._port = {} if parts.get("port") else {"port": 6875}
        self._patience = patience
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def connect(self, within: float | None = None) -> None:
        """Connect, or wait until that is possible.

        Args:
            within: seconds, where there is less patience than the session has.

        Raises:
            SetupError: it was not in time, or the server does not let this user in.
        """
        waiting = Waiting(self._patience if within is None else self._patience.within(within))
        self.close()
        while self._connection is None:
            try:
                # ClientCursor: values go into the text, so that no statement depends on how a parameter is typed.
                self._connection = psycopg.connect(
                    self._dsn,
                    autocommit=True,
                    prepare_threshold=None,
                    connect_timeout=_CONNECT_TIMEOUT,
                    application_name="tocsin-setup",
                    cursor_factory=psycopg.ClientCursor,
                    **self._port,  # type: ignore[arg-type]
                )
            except psycopg.OperationalError as error:
                why = _one_line(str(error))
                if is_final(why):
                    raise SetupError(f"Materialize at {self.name} does not let this user in: {why}") from None
                waiting.on(f"Materialize at {self.name}", why)

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def run(self, statement: str) -> None:
        """Run one statement as it stands.

        Raises:
            StatementError: the server refused it.
            LostError: the connection is gone; whether the statement was carried out is not known.
        """
        self._execute(statement)

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a query gives. Raises as `run` does."""
        cursor = self._execute(query, values)
        return cursor.fetchall() if cursor.description else []

    def change(self, statement: str, *values: object) -> int:
        """Run one INSERT, UPDATE or DELETE, and return how many rows it reached. Raises as `run` does."""
        return self._execute(statement, values).rowcount

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        if self._connection is None:
            raise LostError("not connected")
        try:
            return self._connection.execute(statement.encode(), values or None)
        except psycopg.Error as error:
            if self._connection.closed or self._connection.broken:
                raise LostError(_one_line(str(error))) from None
            told = error.diag
            answer = Answer(
                text=_one_line(told.message_primary or str(error)),
                sqlstate=error.sqlstate,
                detail=_one_line(told.message_detail or ""),
                hint=_one_line(told.message_hint or ""),
            )
            raise StatementError(answer) from None

    def catalog(self, schema: str) -> Catalog:
        """What there is. Raises as `run` does."""
        return Catalog(
            clusters=frozenset(name for (name,) in self.ask("SELECT name FROM mz_catalog.mz_clusters")),
            roles=frozenset(name for (name,) in self.ask("SELECT name FROM mz_catalog.mz_roles")),
            schemas=frozenset(name for (name,) in self.ask(_SCHEMAS)),
            objects={name: Found(kind=kind, comment=note) for name, kind, note in self.ask(_OBJECTS, schema)},
        )

    def offers_history(self) -> bool | None:
        """Whether RETAIN HISTORY is switched on; None where the server does not tell this user."""
        try:
            ((value,),) = self.ask("SHOW enable_logical_compaction_window")
        except (StatementError, ValueError):
            return None
        return str(value) in {"on", "true", "t"}


def _one_line(text: str) -> str:
    return " ".join(text.split())
