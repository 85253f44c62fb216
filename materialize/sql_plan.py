"""The statements of the numbered SQL files, and what to do with each, given what exists."""

import hashlib
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psycopg import sql

DIRECTORY = Path(__file__).resolve().parent
VIEWS = ("CREATE VIEW", "CREATE MATERIALIZED VIEW")
OBJECTS = ("CREATE CONNECTION", "CREATE SOURCE", "CREATE TABLE", *VIEWS)
NAMED = ("CREATE CLUSTER", "CREATE ROLE")  # have no IF NOT EXISTS
CHANGES = ("created", "recreated")
HASH = re.compile(r" \[definition ([0-9a-f]{12})\]$")

_VARIABLE = re.compile(r"-- (.+)\n\\if :\{\?(\w+)\} \\else \\set \w+ (?:'(.*)'|(.*)) \\endif")
_TOKEN = re.compile(
    r"""(?P<space>--[^\n]*|(?m:^)\\[^\n]*|\s+) | (?P<end>;) | :'(?P<literal>\w+)' | :"(?P<identifier>\w+)"
      | '(?:[^']|'')*' | "[^"]*" | \w+ | ::? | .""",
    re.VERBOSE,
)
_ACTION = re.compile(r"(?:CREATE|COMMENT ON|ALTER) (?:MATERIALIZED VIEW|\w+)|\w+")


class SetupError(Exception):
    """The setup cannot go on. The text is for the person at the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement on one line, without comments."""

    text: str
    action: str  # its first words, such as CREATE VIEW or INSERT
    name: str  # the object it concerns
    reads: frozenset[str]  # the other objects of the schema that it names
    place: str  # file and line

    @property
    def hash(self) -> str:
        """Of the text; layout and comments do not count."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return f"{self.place}: {self.action} {self.name}"


def variables(directory: Path = DIRECTORY) -> dict[str, tuple[str, str]]:
    """Name -> default and description, from `variables.psql`."""
    found = _VARIABLE.findall((directory / "variables.psql").read_text(encoding="utf-8"))
    return {name: (quoted or plain, description) for description, name, quoted, plain in found}


def statements(values: Mapping[str, str], directory: Path = DIRECTORY) -> Iterator[Statement]:
    """The statements of all files in order, with the values of the variables."""
    for file in sorted(directory.glob("[0-9]*.sql")):
        script = file.read_text(encoding="utf-8")
        start = 0
        for end in [token.start() for token in _TOKEN.finditer(script) if token["end"]]:
            yield _statement(file.name, script, start, end, values)
            start = end + 1


def _statement(file: str, script: str, start: int, end: int, values: Mapping[str, str]) -> Statement:
    parts: list[str] = []
    identifiers: list[str] = []
    line, space = 0, ""
    for token in _TOKEN.finditer(script, start, end):
        if token["space"]:
            space = " "
            continue
        line = line or script.count("\n", 0, token.start()) + 1
        part = token[0]
        if token["literal"]:
            part = sql.Literal(values[token["literal"]]).as_string()
        elif token["identifier"]:
            identifiers.append(values[token["identifier"]])
            part = sql.Identifier(identifiers[-1]).as_string()
        parts.append(space + part)
        space = ""
    text = "".join(parts).strip()
    schema = re.escape(sql.Identifier(values["schema"]).as_string())
    names = re.findall(schema + r"\.(\w+)", text)
    name = [*names, *identifiers, ""][0]
    action, reads = _ACTION.findall(text)[0], frozenset(names) - {name}
    return Statement(text=text, action=action, name=name, reads=reads, place=f"{file}:{line}")


def plan(
    script: Sequence[Statement], schema: str, named: Container[str], found: Mapping[str, tuple[str, str | None]]
) -> Iterator[tuple[Statement, str, str]]:
    """What to do, in order: the statement it is about, what to execute, and created, recreated, unchanged or kept.

    `named`: clusters and roles that exist; `found`: objects that exist in the schema, name -> type and comment. Raises
    `SetupError` where an object of another type has the name of an object.
    """
    objects = {each.name: each for each in script if each.action in OBJECTS}
    outcomes: dict[str, str] = {}
    for name, each in objects.items():
        kind, comment = found.get(name, ("", None))
        if kind and f"CREATE {kind.replace('-', ' ').upper()}" != each.action:
            raise SetupError(f"{each}: a {kind} has this name. Rename or drop it, or choose another --schema")
        mark = HASH.search(comment or "")
        stale = each.action in VIEWS and any(outcomes[one] == "recreated" for one in each.reads)
        if mark and mark[1] == each.hash and not stale:
            outcomes[name] = "unchanged"
        elif kind and each.action in VIEWS:
            outcomes[name] = "recreated"
        else:
            outcomes[name] = "kept" if mark else "created"
    for name, each in reversed(objects.items()):
        if outcomes[name] == "recreated":
            kind, quoted = each.action.removeprefix("CREATE "), sql.Identifier(schema).as_string()
            yield each, f"DROP {kind} IF EXISTS {quoted}.{name}", ""
    for each in script:
        outcome = outcomes.get(each.name, "")
        if each.action in NAMED:
            outcome = "unchanged" if each.name in named else "created"
        written = outcome in CHANGES
        if each.action in (*NAMED, *OBJECTS):
            yield each, each.text if written else "", outcome
        elif each.action.startswith("COMMENT"):
            yield each, f"{each.text[:-1]} [definition {objects[each.name].hash}]'" if written else "", ""
        elif each.action != "INSERT" or written:  # rows that someone deleted do not come back
            yield each, each.text, ""
