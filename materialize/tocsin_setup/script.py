"""The numbered SQL files as items: one object each, with its comment, its first rows and what it reads. Pure.

The files are plain SQL for psql. They need no markers: what an object is, what it is called and what it depends on is
said by its statement. Variables are psql's, ``:'name'`` for a literal and ``:"name"`` for an identifier;
`variables.psql` has their defaults. Other lines for psql (they begin with a backslash) mean nothing here.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from psycopg import sql

from tocsin_setup.errors import ScriptError

VARIABLES = "variables.psql"

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
      | (?P<meta>(?m:^)\\[^\n]*)
      | (?P<string>'(?:[^']|'')*')
      | (?P<literal>:'\w+')
      | (?P<identifier>:"\w+")
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<end>;)
      | (?P<space>\s+)
      | (?P<word>\w+)
      | (?P<other>::|.)""",
    re.DOTALL | re.VERBOSE,
)
_VARIABLE = re.compile(
    r"-- (?P<help>[^\n]+)\n\\if :\{\?(?P<name>\w+)\} \\else \\set (?P=name) (?P<default>'[^'\n]*'|\S+) \\endif"
)
_HISTORY = re.compile(r"WITH \(RETAIN HISTORY FOR ('(?:[^']|'')*')\) ")


class Kind(StrEnum):
    """What an item is, in the words of the server."""

    SETTING = "setting"
    CLUSTER = "cluster"
    SESSION = "session"
    """A statement for this session alone, such as SET."""
    SCHEMA = "schema"
    ROLE = "role"
    CONNECTION = "connection"
    SOURCE = "source"
    TABLE = "table"
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized view"
    GRANT = "grant"

    @property
    def replaceable(self) -> bool:
        """Whether it can be made anew without losing what it holds."""
        return self in {Kind.VIEW, Kind.MATERIALIZED_VIEW}

    @property
    def in_schema(self) -> bool:
        """Whether it lives in the schema, and so can be read by others."""
        return self in {Kind.CONNECTION, Kind.SOURCE, Kind.TABLE, Kind.VIEW, Kind.MATERIALIZED_VIEW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A name that the files leave open."""

    name: str
    default: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that is to be there.

    `create` is its statement with the variables filled in, `seeds` what goes into a table when it is made, `uses` the
    names in the schema that it reads, `place` file and line. `comment_on` is the beginning of its COMMENT statement.
    """

    kind: Kind
    name: str
    create: str
    place: str
    qualified: str = ""
    uses: frozenset[str] = frozenset()
    seeds: tuple[str, ...] = ()
    comment: str = ""
    comment_on: str = ""

    @property
    def definition(self) -> str:
        """A hash of what the object is, whatever its layout, its comments and the history it keeps."""
        return hashlib.sha256(self.created(history=False).encode()).hexdigest()[:12]

    @property
    def history(self) -> str | None:
        """The span of RETAIN HISTORY as a quoted literal, where it asks for one."""
        found = _HISTORY.search(self.create)
        return found[1] if found else None

    def created(self, *, history: bool) -> str:
        """The statement that makes it, unless it is there."""
        return self.create if history else _HISTORY.sub("", self.create)

    def replaced(self, *, history: bool) -> str:
        """The statement that makes it in the place of what has its name, in one step."""
        return re.sub(
            r"^CREATE ((?:MATERIALIZED )?VIEW) IF NOT EXISTS", r"CREATE OR REPLACE \1", self.created(history=history)
        )

    @property
    def dropped(self) -> str:
        return f"DROP {self.kind.upper()} IF EXISTS {self.qualified}"

    def commented(self, text: str) -> str:
        return self.comment_on + sql.Literal(text).as_string()

    def __str__(self) -> str:
        return f"{self.kind} {self.qualified.replace(chr(34), '') or self.name}"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


class _Statement:
    """One statement: its tokens without comments, single blanks between them."""

    def __init__(self, file: str, tokens: list[_Token], values: Mapping[str, str]) -> None:
        self.place = f"{file}:{tokens[0].line}"
        self._tokens = tokens
        self._values = values
        self.sql = "".join(map(self._render, tokens)).strip()
        self.words = tuple(token.text for token in tokens if token.kind != "space")

    def _render(self, token: _Token) -> str:
        if token.kind not in {"literal", "identifier"}:
            return token.text
        value = self.value(token.text)
        quote = sql.Identifier if token.kind == "identifier" else sql.Literal
        return quote(value).as_string().strip()

    def value(self, variable: str) -> str:
        """The value of a variable as it stands in the statement, such as ``:"schema"``."""
        try:
            return self._values[variable[2:-1]]
        except KeyError:
            raise ScriptError(f"{self.place}: {variable} is not in {VARIABLES}") from None

    def names(self) -> Iterator[str]:
        """Every name in the schema that it speaks of, in order."""
        for schema, dot, name in zip(self.words, self.words[1:], self.words[2:], strict=False):
            if schema == ':"schema"' and dot == ".":
                yield name


def variables(directory: Path) -> tuple[Variable, ...]:
    """What the files leave open, in the order in which it is listed.

    Raises:
        ScriptError: the list cannot be read.
    """
    text = _read(directory / VARIABLES)
    found = tuple(
        Variable(name=match["name"], default=match["default"].strip("'"), help=match["help"])
        for match in _VARIABLE.finditer(text)
    )
    if len(found) != text.count("\n\\if "):
        raise ScriptError(f"{VARIABLES}: a line is not of the form: \\if :{{?name}} \\else \\set name value \\endif")
    return found


def load(directory: Path, values: Mapping[str, str]) -> tuple[Item, ...]:
    """The items of all numbered files, in order.

    Args:
        values: the value of every variable.

    Raises:
        ScriptError: a file cannot be read, or what it says makes no sense: says where.
    """
    files = sorted(directory.glob("[0-9]*.sql"))
    if not files:
        raise ScriptError(f"{directory}: has no numbered SQL files")
    return items(((file.name, _read(file)) for file in files), values)


def items(files: Iterable[tuple[str, str]], values: Mapping[str, str]) -> tuple[Item, ...]:
    """The items of files given as (name, text). See `load`."""
    found: list[Item] = []
    for statement in (one for name, text in files for one in _statements(name, text, values)):
        _add(found, statement)
    _check(found)
    return tuple(found)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{file}: cannot be read: {error}") from None


def _statements(file: str, text: str, values: Mapping[str, str]) -> Iterator[_Statement]:
    tokens: list[_Token] = []
    line = 1
    for match in _TOKEN.finditer(text):
        token = _Token(match.lastgroup or "", match[0], line)
        line += token.text.count("\n")
        if token.kind == "end":
            if tokens:
                yield _Statement(file, tokens, values)
            tokens = []
        elif token.kind == "meta" and tokens:
            raise ScriptError(f"{file}:{token.line}: a line for psql inside a statement; is a semicolon missing?")
        elif token.text in {"'", '"'}:
            raise ScriptError(f"{file}:{token.line}: a quote without its end")
        elif token.kind in {"comment", "meta", "space"}:
            # Layout is no part of a statement: one blank, wherever there is any.
            if tokens and tokens[-1].kind != "space":
                tokens.append(_Token("space", " ", token.line))
        else:
            tokens.append(token)
    if tokens:
        raise ScriptError(f"{file}:{tokens[0].line}: a statement without a semicolon")


def _add(found: list[Item], statement: _Statement) -> None:
    match statement.words:
        case ("ALTER", "SYSTEM", "SET", name, *_):
            found.append(Item(kind=Kind.SETTING, name=name, create=statement.sql, place=statement.place))
        case ("SET", name, *_):
            found.append(Item(kind=Kind.SESSION, name=name, create=statement.sql, place=statement.place))
        case ("GRANT", *_):
            what = statement.sql.replace('"', "").removeprefix("GRANT ")
            used = frozenset(statement.names())
            found.append(Item(kind=Kind.GRANT, name=what, create=statement.sql, place=statement.place, uses=used))
        case ("CREATE", *_):
            found.append(_object(statement))
        case ("COMMENT", "ON", *_):
            _comment(found, statement)
        case ("INSERT", "INTO", *_):
            position = _position(found, Kind.TABLE, next(statement.names(), ""), statement)
            seeds = (*found[position].seeds, statement.sql)
            found[position] = replace(found[position], seeds=seeds)
        case _:
            raise ScriptError(
                f"{statement.place}: no place for a statement that begins {' '.join(statement.words[:3])}"
            )


def _object(statement: _Statement) -> Item:
    kind, rest = _kind(statement, statement.words[1:])
    guarded = rest[:3] == ("IF", "NOT", "EXISTS")
    if guarded is (kind in {Kind.CLUSTER, Kind.ROLE}):
        raise ScriptError(f"{statement.place}: CREATE {kind.upper()} {'with' if guarded else 'without'} IF NOT EXISTS")
    name = _name(statement, kind, rest[3:] if guarded else rest)
    own = name if kind.in_schema else ""
    schema = sql.Identifier(statement.value(':"schema"')).as_string() + "." if own else ""
    return Item(
        kind=kind,
        name=name,
        create=statement.sql,
        place=statement.place,
        qualified=schema + (name if own else sql.Identifier(name).as_string()),
        uses=frozenset(statement.names()) - {own},
    )


def _comment(found: list[Item], statement: _Statement) -> None:
    kind, rest = _kind(statement, statement.words[2:])
    position = _position(found, kind, _name(statement, kind, rest), statement)
    if statement.words[-2] != "IS" or not statement.words[-1].startswith("'"):
        raise ScriptError(f"{statement.place}: a comment that is not a text")
    head, text = statement.sql[: -len(statement.words[-1])], statement.words[-1]
    found[position] = replace(found[position], comment_on=head, comment=text[1:-1].replace("''", "'"))


def _kind(statement: _Statement, words: tuple[str, ...]) -> tuple[Kind, tuple[str, ...]]:
    for length in (2, 1):
        name = " ".join(words[:length]).lower()
        if name in set(Kind):
            return Kind(name), words[length:]
    raise ScriptError(f"{statement.place}: no such kind of object: {words[0]}")


def _name(statement: _Statement, kind: Kind, words: tuple[str, ...]) -> str:
    if not kind.in_schema:
        return statement.value(words[0])
    name = next(statement.names(), "")
    if words[:3] != (':"schema"', ".", name) or not re.fullmatch("[a-z_][a-z0-9_]*", name):
        raise ScriptError(f'{statement.place}: a name must be :"schema". and a word in small letters')
    return name


def _position(found: list[Item], kind: Kind, name: str, statement: _Statement) -> int:
    for position, item in enumerate(found):
        if (item.kind, item.name) == (kind, name):
            return position
    raise ScriptError(f"{statement.place}: speaks of {kind} {name}, which is not there yet")


def _check(found: list[Item]) -> None:
    known: set[str] = set()
    for item in found:
        if missing := sorted(item.uses - known):
            raise ScriptError(f"{item.place}: {item} uses {missing[0]}, which is not there yet")
        if item.kind in {Kind.SETTING, Kind.SESSION, Kind.GRANT}:
            continue
        if not item.comment:
            raise ScriptError(f"{item.place}: {item} has no COMMENT")
        if item.kind.in_schema:
            if item.name in known:
                raise ScriptError(f"{item.place}: a second {item.name}")
            known.add(item.name)
