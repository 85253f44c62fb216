"""Recognising the statements that a client of Materialize sends. A closed list: anything else is refused by name.

Not a SQL parser. It reads tokens (so comments, quoting and line breaks do not matter) and follows one short path per
statement.
"""

import re
from collections.abc import Callable

from support.materialize import errors
from support.materialize.sql.statements import (
    CloseCursor,
    Constant,
    Copy,
    Deallocate,
    Declare,
    Empty,
    Explain,
    Fetch,
    Insights,
    Name,
    ObjectId,
    Select,
    SetVariable,
    Show,
    Statement,
    Subscribe,
    Transaction,
)
from support.materialize.sql.tokens import Reader, UnknownPathError, tokens


def split(sql: str) -> list[str]:
    """The statements of a simple query, without semicolons. At least one: an empty query is one empty statement."""
    parts, start = [], 0
    for token in tokens(sql):
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
    reader = Reader(tokens(sql.strip().rstrip(";")))
    try:
        found = _statement(reader)
        reader.end()
    except UnknownPathError:
        raise errors.unsupported(sql) from None
    return found


def relation_name(text: str) -> Name:
    """The parts of a name written as in SQL, for example ``public."Orders"``."""
    reader = Reader(tokens(text))
    try:
        name = reader.name()
        reader.end()
    except UnknownPathError:
        raise errors.missing_object(text) from None
    return name


def _statement(reader: Reader) -> Statement:
    if not reader.tokens:
        return Empty()
    word = reader.of_kind("word").lower()
    if word in _TRANSACTION:
        reader.at = len(reader.tokens)  # isolation levels and the like change nothing here
        return Transaction(tag=_TRANSACTION[word])
    if word not in _PATHS:
        raise UnknownPathError
    return _PATHS[word](reader)


def _copy(reader: Reader) -> Copy:
    reader.need("(")
    if reader.take("subscribe"):
        source: Subscribe | Select = _subscribe(reader)
    else:
        reader.need("select")
        found = _select(reader)
        if not isinstance(found, Select):
            raise UnknownPathError
        source = found
    reader.need(")", "to", "stdout")
    if reader.take("with"):
        reader.need("(", "format")
        reader.take("=")
        if not (reader.take("text") or reader.string().lower() == "text"):
            raise UnknownPathError
        reader.need(")")
    return Copy(source=source)


def _subscribe(reader: Reader) -> Subscribe:
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


def _subscribe_options(reader: Reader) -> tuple[bool, bool]:
    options = {"progress": False, "snapshot": True}
    if reader.take("with"):
        reader.need("(")
        while True:
            name = reader.identifier()
            if name not in options:
                raise UnknownPathError
            reader.take("=")
            options[name] = not reader.take("false") and (reader.take("true") or True)
            if not reader.take(","):
                break
        reader.need(")")
    return options["progress"], options["snapshot"]


def _column_list(reader: Reader) -> tuple[str, ...] | None:
    if reader.take("*"):
        return None
    names = [reader.name()[-1]]
    while reader.take(","):
        names.append(reader.name()[-1])
    return tuple(names)


def _select(reader: Reader) -> Select | Constant | ObjectId:
    if reader.peek("id", "from", "mz_catalog", ".", "mz_objects"):
        return _object_id(reader)
    start = reader.at
    try:
        columns = _column_list(reader)
        reader.need("from")
        relation = reader.name()
    except UnknownPathError:
        reader.at = start
        return _constant(reader)
    limit = reader.number() if reader.take("limit") else None
    return Select(relation=relation, columns=columns, limit=limit)


def _object_id(reader: Reader) -> ObjectId:
    reader.need("id", "from", "mz_catalog", ".", "mz_objects", "where", "oid", "=")
    start = reader.at
    try:
        name: str | None = reader.string()
    except UnknownPathError:
        reader.at = start
        if reader.of_kind("parameter") != "$1":
            raise
        name = None
    while reader.take("::"):
        if reader.identifier() not in ("text", "regclass", "oid"):
            raise UnknownPathError
    return ObjectId(name=name)


def _constant(reader: Reader) -> Constant:
    items = []
    while True:
        if reader.at < len(reader.tokens) and reader.tokens[reader.at].kind == "word":
            function = reader.identifier()
            if function not in FUNCTIONS:
                raise UnknownPathError
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


def _declare(reader: Reader) -> Declare:
    cursor = reader.identifier()
    reader.need("cursor", "for", "subscribe")
    return Declare(cursor=cursor, subscribe=_subscribe(reader))


def _close(reader: Reader) -> CloseCursor:
    return CloseCursor(cursor=reader.identifier())


def _deallocate(reader: Reader) -> Deallocate:
    return Deallocate(name=None if reader.take("all") else reader.identifier())


def _show(reader: Reader) -> Show:
    return Show(name=reader.identifier())


def _fetch(reader: Reader) -> Fetch:
    count: int | None = 1
    if reader.take("all"):
        count = None
    elif reader.tokens[reader.at : reader.at + 1] and reader.tokens[reader.at].kind == "number":
        count = reader.number()
    reader.take("from")
    cursor = reader.identifier()
    seconds = None
    if reader.take("with", "(", "timeout"):
        reader.take("=")
        text = reader.string()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|seconds?)", text)
        if match is None:
            raise UnknownPathError
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
        reader.need(")")
    return Fetch(cursor=cursor, count=count, seconds=seconds)


def _explain(reader: Reader) -> Explain | Insights:
    if reader.take("plan", "insights", "as", "json", "for", "select"):
        reader.number()
        computes = reader.take("+")
        if computes:
            reader.number()
        return Insights(computes=computes)
    reader.need("raw", "plan", "as", "json", "for", "select", "*", "from")
    if reader.take("("):
        reader.need("select")
        columns = _column_list(reader)
        reader.need("from")
        found = Explain(relation=reader.name(), columns=columns)
        reader.need(")")
        return found
    if reader.take("["):
        object_id = reader.identifier()
        reader.need("as")
        name = reader.name()
        reader.need("]")
        if len(name) < 2:
            raise errors.unqualified(".".join(name))
        return Explain(relation=(object_id,), by_id=True)
    return Explain(relation=reader.name())


def _set(reader: Reader) -> SetVariable:
    _ = reader.take("session") or reader.take("local")
    name = reader.identifier()
    if not (reader.take("=") or reader.take("to")):
        raise UnknownPathError
    values = []
    while True:
        values.append(_set_value(reader))
        if not reader.take(","):
            return SetVariable(name=name, value=", ".join(values))


def _set_value(reader: Reader) -> str:
    text = reader.of_kind("string", "quoted", "word", "number")
    return text[1:-1] if text[0] in "'\"" else text


_TRANSACTION = {"begin": "BEGIN", "start": "START TRANSACTION", "commit": "COMMIT", "rollback": "ROLLBACK"}

_PATHS: dict[str, Callable[[Reader], Statement]] = {
    "close": _close,
    "copy": _copy,
    "deallocate": _deallocate,
    "declare": _declare,
    "explain": _explain,
    "fetch": _fetch,
    "select": _select,
    "set": _set,
    "show": _show,
    "subscribe": _subscribe,
}
