"""Which columns of a view depend on the clock, by its definition. Pure.

A column such as `now() - due_at` changes at every reading, and each change would be a notification. A clock in the
WHERE only decides which rows are there, and is no problem in PostgreSQL.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

_TOKEN = re.compile(
    r"""
    (?P<skip> --[^\n]* | /\*.*?\*/ | \s+)
    | (?P<text> [eE]?'(?:[^'\\]|\\.|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    | "(?P<quoted> (?:[^"]|"")+ )"
    | (?P<word> [^\W\d][\w$]*)
    | (?P<other> .)
    """,
    re.DOTALL | re.VERBOSE,
)
_CALLED = frozenset(
    {
        *("now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "mz_now"),
        *("random", "gen_random_uuid", "uuid_generate_v4", "uuidv4", "uuidv7", "nextval"),
    }
)
"""Functions whose result is another one at each reading."""
_BARE = frozenset({"current_timestamp", "current_time", "current_date", "localtime", "localtimestamp"})
"""The same without parentheses."""
_ENDS = frozenset({"from", "where", "group", "having", "union", "intersect", "except", "order", "limit", "window"})

_Token = tuple[str, str]
"""(what it is, its text)."""


def clocked(definition: str, columns: Sequence[str]) -> Mapping[str, str]:
    """Column -> the function in its expression that reads the clock (or chance). Only the outermost SELECT, or the
    first one of a UNION, is read."""
    items = list(_items(_tokens(definition)))
    by_place = len(items) == len(columns) and not any(("other", "*") in item[-1:] for item in items)
    found: dict[str, str] = {}
    for place, item in enumerate(items):
        function = _clock(item)
        name = columns[place] if by_place else item[-1][1] if item else ""
        if function and name in columns:
            found[name] = function
    return found


def _tokens(definition: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(definition):
        kind = match.lastgroup or ""
        kind = "text" if match["text"] is not None else kind
        if kind != "skip":
            found.append((kind, match[kind].replace('""', '"') if kind == "quoted" else match[kind]))
    return found


def _items(tokens: Sequence[_Token]) -> Iterator[list[_Token]]:
    """The expressions of the first SELECT that is not in parentheses."""
    depth, item, inside = 0, list[_Token](), False
    for kind, text in tokens:
        word = text.lower() if kind == "word" else ""
        depth += (kind, text) == ("other", "(")
        depth -= (kind, text) == ("other", ")")
        if not inside:
            inside = not depth and word == "select"
            continue
        if not depth and (word in _ENDS or (kind, text) == ("other", ";")):
            break
        if not depth and (kind, text) == ("other", ","):
            yield item
            item = []
        else:
            item.append((kind, text))
    if item:
        yield item


def _clock(item: Sequence[_Token]) -> str:
    for place, (kind, text) in enumerate(item):
        called = item[place + 1 : place + 2] == [("other", "(")]
        if kind == "word" and text.lower() in _BARE:
            return text.lower()
        if kind in ("word", "quoted") and called and text.lower() in _CALLED:
            return f"{text.lower()}()"
    return ""
