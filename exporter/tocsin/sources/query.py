"""An operator's own query, as a part of another statement."""

import re

from psycopg import sql

_TOKEN = re.compile(
    r"""
    (?P<idle> --[^\n]* | /\*.*?\*/ | [\s;])
    | (?<!\w)[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | .
    """,
    re.DOTALL | re.VERBOSE,
)
"""A comment, space or semicolon; quoted text; any other character."""


def operators_query(query: str) -> sql.SQL:
    """The query as it is, without semicolons and comments at its end, which what follows it would be part of."""
    return sql.SQL(query[: max((token.end() for token in _TOKEN.finditer(query) if token["idle"] is None), default=0)])


def is_cut_short(query: str) -> bool:
    """Whether a comment hides the rest of a query that has only one line."""
    one_line = "\n" not in query.strip()
    return one_line and any((token["idle"] or "").startswith("--") for token in _TOKEN.finditer(query))
