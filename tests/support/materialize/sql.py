"""Recognising the statements that a client of Materialize sends. A closed list: anything else is refused by name.

Not a SQL parser. It reads tokens (so comments, quoting and line breaks do not matter) and follows one short path per
statement.
"""

import re
from dataclasses import dataclass, field

from support.materialize import errors

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
    """``FETCH [n | ALL] cursor [WITH (timeout = '1s')]``; ``count`` is ``None`` for ALL, ``timeout`` is in seconds."""

    cursor: str
    count: int | None
    timeout: float | None = None


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
class Empty:
    pass


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
    | Empty
)

_TOKEN = re.compile(
    r"""\s+ | --[^\n]* | /\*.*?\*/
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<word>[A-Za-z_][A-Za-z0-9_$]*)
    | (?P<number>\d+)
    | (?P<parameter>\$\d+)
    | (?P<sign>::|[(),.*=;<>+-])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _UnknownPathError(Exception):
    """The tokens leave the known path."""


@dataclass(slots=True)
class _Reader:
    tokens: list[_Token]
    at: int = 0
    seen: list[str] = field(default_factory=list)

    def peek(self, *words: str) -> bool:
        """Do these words and signs come next?"""
        following = self.tokens[self.at : self.at + len(words)]
        return len(following) == len(words) and all(
            token.kind in ("word", "sign") and token.text.lower() == word
            for token, word in zip(following, words, strict=True)
        )

    def take(self, *words: str) -> bool:
        if self.peek(*words):
            self.at += len(words)
            return True
        return False

    def need(self, *words: str) -> None:
        if not self.take(*words):
            raise _UnknownPathError

    def of_kind(self, *kinds: str) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at].kind in kinds:
            self.at += 1
            return self.tokens[self.at - 1].text
        raise _UnknownPathError

    def identifier(self) -> str:
        text = self.of_kind("word", "quoted")
        return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()

    def name(self) -> Name:
        parts = [self.identifier()]
        while self.take("."):
            parts.append(self.identifier())
        return tuple(parts)

    def string(self) -> str:
        return self.of_kind("string")[1:-1].replace("''", "'")

    def number(self) -> int:
        text = self.of_kind("number", "string")
        digits = text.strip("'")
        if not digits.isdecimal():
            raise _UnknownPathError
        return int(digits)

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise _UnknownPathError


def split(sql: str) -> list[str]:
    """The statements of a simple query, without semicolons. At least one: an empty query is one empty statement."""
    tokens = _tokens(sql)
    parts, start = [], 0
    for token in tokens:
        if token.text == ";" and token.kind == "sign":
            parts.append(sql[start : token.start].strip())
            start = token.end
    parts.append(sql[start:].strip())
    return [part for part in parts if part] or [""]


def statement(sql: str) -> Statement:
    """Recognise one statement.

    Raises:
        ServerError: 42601 that quotes the statement, where it is none of the known ones.
    """
    reader = _Reader(_tokens(sql.strip().rstrip(";")))
    try:
        found = _statement(reader)
        reader.end()
    except _UnknownPathError:
        raise errors.unsupported(sql) from None
    return found


def relation_name(text: str) -> Name:
    """The parts of a name written as in SQL, for example ``public."Orders"``."""
    reader = _Reader(_tokens(text))
    try:
        name = reader.name()
        reader.end()
    except _UnknownPathError:
        raise errors.missing_object(text) from None
    return name


def _tokens(sql: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None:
            raise errors.unsupported(sql)
        if match.lastgroup:
            tokens.append(_Token(match.lastgroup, match[0], match.start(), match.end()))
        at = match.end()
    return tokens


def _statement(reader: _Reader) -> Statement:
    if not reader.tokens:
        return Empty()
    if reader.take("copy", "("):
        return _copy(reader)
    if reader.take("subscribe"):
        return _subscribe(reader)
    if reader.take("select"):
        return _select(reader)
    if reader.take("declare"):
        cursor = reader.identifier()
        reader.need("cursor", "for", "subscribe")
        return Declare(cursor=cursor, subscribe=_subscribe(reader))
    if reader.take("fetch"):
        return _fetch(reader)
    if reader.take("close"):
        return CloseCursor(cursor=reader.identifier())
    if reader.take("set"):
        return _set(reader)
    if reader.take("show"):
        return Show(name=reader.identifier())
    for word, tag in (
        ("begin", "BEGIN"),
        ("start", "START TRANSACTION"),
        ("commit", "COMMIT"),
        ("rollback", "ROLLBACK"),
    ):
        if reader.take(word):
            reader.at = len(reader.tokens)  # isolation levels and the like change nothing here
            return Transaction(tag=tag)
    raise _UnknownPathError


def _copy(reader: _Reader) -> Copy:
    if reader.take("subscribe"):
        source: Subscribe | Select = _subscribe(reader)
    else:
        reader.need("select")
        found = _select(reader)
        if not isinstance(found, Select):
            raise _UnknownPathError
        source = found
    reader.need(")", "to", "stdout")
    if reader.take("with"):
        reader.need("(", "format")
        reader.take("=")
        if not (reader.take("text") or reader.string().lower() == "text"):
            raise _UnknownPathError
        reader.need(")")
    return Copy(source=source)


def _subscribe(reader: _Reader) -> Subscribe:
    reader.take("to")
    if reader.take("("):
        reader.need("select")
        columns = _column_list(reader)
        reader.need("from")
        relation = reader.name()
        reader.need(")")
    else:
        columns, relation = None, reader.name()
    progress, snapshot = _subscribe_options(reader)
    as_of, at_least, up_to = None, False, None
    if reader.take("as", "of"):
        at_least = reader.take("at", "least")
        as_of = reader.number()
    if reader.take("up", "to"):
        up_to = reader.number()
    return Subscribe(
        relation=relation,
        columns=columns,
        progress=progress,
        snapshot=snapshot,
        as_of=as_of,
        at_least=at_least,
        up_to=up_to,
    )


def _subscribe_options(reader: _Reader) -> tuple[bool, bool]:
    options = {"progress": False, "snapshot": True}
    if reader.take("with"):
        reader.need("(")
        while True:
            name = reader.identifier()
            if name not in options:
                raise _UnknownPathError
            reader.take("=")
            options[name] = not reader.take("false") and (reader.take("true") or True)
            if not reader.take(","):
                break
        reader.need(")")
    return options["progress"], options["snapshot"]


def _column_list(reader: _Reader) -> tuple[str, ...] | None:
    if reader.take("*"):
        return None
    names = [reader.name()[-1]]
    while reader.take(","):
        names.append(reader.name()[-1])
    return tuple(names)


def _select(reader: _Reader) -> Select | Constant | ObjectId:
    if reader.peek("id", "from", "mz_catalog", ".", "mz_objects"):
        return _object_id(reader)
    start = reader.at
    try:
        columns = _column_list(reader)
        reader.need("from")
        relation = reader.name()
    except _UnknownPathError:
        reader.at = start
        return _constant(reader)
    limit = reader.number() if reader.take("limit") else None
    return Select(relation=relation, columns=columns, limit=limit)


def _object_id(reader: _Reader) -> ObjectId:
    reader.need("id", "from", "mz_catalog", ".", "mz_objects", "where", "oid", "=")
    start = reader.at
    try:
        name: str | None = reader.string()
    except _UnknownPathError:
        reader.at = start
        if reader.of_kind("parameter") != "$1":
            raise
        name = None
    while reader.take("::"):
        if reader.identifier() not in ("text", "regclass", "oid"):
            raise _UnknownPathError
    return ObjectId(name=name)


def _constant(reader: _Reader) -> Constant:
    items = []
    while True:
        if reader.at < len(reader.tokens) and reader.tokens[reader.at].kind == "word":
            function = reader.identifier()
            if function not in FUNCTIONS:
                raise _UnknownPathError
            if reader.take("("):
                reader.need(")")
            value = f"{function}()"
        else:
            function, value = "?column?", reader.of_kind("number", "string")
        if reader.take("as"):
            function = reader.identifier()
        items.append((function, value))
        if not reader.take(","):
            return Constant(items=tuple(items))


FUNCTIONS = frozenset({"mz_version", "version", "current_user", "current_database", "mz_now"})


def _fetch(reader: _Reader) -> Fetch:
    count: int | None = 1
    if reader.take("all"):
        count = None
    elif reader.tokens[reader.at : reader.at + 1] and reader.tokens[reader.at].kind == "number":
        count = reader.number()
    reader.take("from")
    cursor = reader.identifier()
    timeout = None
    if reader.take("with", "(", "timeout"):
        reader.take("=")
        text = reader.string()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|seconds?)", text)
        if match is None:
            raise _UnknownPathError
        timeout = float(match[1]) / (1000 if match[2] == "ms" else 1)
        reader.need(")")
    return Fetch(cursor=cursor, count=count, timeout=timeout)


def _set(reader: _Reader) -> SetVariable:
    _ = reader.take("session") or reader.take("local")
    name = reader.identifier()
    if not (reader.take("=") or reader.take("to")):
        raise _UnknownPathError
    values = []
    while True:
        values.append(_set_value(reader))
        if not reader.take(","):
            return SetVariable(name=name, value=", ".join(values))


def _set_value(reader: _Reader) -> str:
    text = reader.of_kind("string", "quoted", "word", "number")
    return text[1:-1] if text[0] in "'\"" else text
