"""The statements that the double knows, as data."""

from dataclasses import dataclass

Name = tuple[str, ...]
"""The parts of an identifier, folded to lower case unless quoted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """``SUBSCRIBE [TO] name`` or ``SUBSCRIBE (SELECT ... FROM name)``.

    Attributes:
        columns: the columns a query asks for, ``None`` for all.
        at_least: ``AS OF AT LEAST``.
    """

    relation: Name
    columns: tuple[str, ...] | None = None
    progress: bool = False
    snapshot: bool = True
    as_of: int | None = None
    at_least: bool = False
    up_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """``SELECT columns FROM name [LIMIT n]``."""

    relation: Name
    columns: tuple[str, ...] | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """``COPY (...) TO STDOUT`` in text."""

    source: Subscribe | Select


@dataclass(frozen=True, slots=True, kw_only=True)
class Declare:
    cursor: str
    subscribe: Subscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """``FETCH [n | ALL] cursor [WITH (timeout = '1s')]``; ``count`` is ``None`` for ALL, ``seconds`` is the timeout."""

    cursor: str
    count: int | None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseCursor:
    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """``tag`` is BEGIN, COMMIT or ROLLBACK."""

    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVariable:
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A SELECT of literals and functions without arguments: pairs of column name and literal or function name."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectId:
    """The lookup of the object id behind a name. ``name`` is ``None`` where it comes as parameter $1."""

    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """``EXPLAIN RAW PLAN AS JSON FOR SELECT * FROM name``, or from ``(SELECT columns FROM name)``, or from ``[id AS
    name]``.

    Attributes:
        relation: the name, or the id where ``by_id``.
    """

    relation: Name
    columns: tuple[str, ...] | None = None
    by_id: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Insights:
    """``EXPLAIN PLAN INSIGHTS AS JSON FOR SELECT 1`` or ``SELECT 1 + 1``.

    Attributes:
        computes: it calls a function, so it runs on the cluster of the session.
    """

    computes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deallocate:
    """``DEALLOCATE name``; ``name`` is ``None`` for ALL."""

    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Empty:
    """An empty query."""


Statement = (
    Subscribe
    | Select
    | Copy
    | Declare
    | Fetch
    | CloseCursor
    | Transaction
    | SetVariable
    | Show
    | Constant
    | ObjectId
    | Explain
    | Insights
    | Deallocate
    | Empty
)
