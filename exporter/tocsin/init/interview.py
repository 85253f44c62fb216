"""What `tocsin init` asks: on a terminal each question that the command line does not answer, else nothing."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tocsin.errors import SourceError, SourceReason, TocsinError
from tocsin.init import server, terminal
from tocsin.init.channels import CHANNELS, Chosen, chosen, missing
from tocsin.init.connection import Connection, connection, default_dsn
from tocsin.init.facts import Inventory, Relation, sql_name
from tocsin.init.proposal import Choice, Proposal, others, proposal
from tocsin.postgres import name_parts

_MATERIALIZE_PORT = 6875


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The answers on the command line."""

    dsn: str | None
    relations: Sequence[str]
    channel: str | None
    settings: Mapping[str, str]
    asks: bool
    """Whether to ask for what is missing."""
    say: Callable[[str], None]
    """Prints a line for people."""


def connected(given: Given) -> tuple[Connection, Inventory]:
    """Choose a server, and find what it holds. Raises TocsinError where no one can be asked."""
    default = given.dsn or default_dsn(os.environ, _is_open(_MATERIALIZE_PORT))
    if given.dsn is None and not given.asks and not {"DATABASE_URL", "PGHOST"} & os.environ.keys():
        raise TocsinError("name the server: --dsn postgresql://user:password@host/database")
    if given.dsn is not None or not given.asks:
        try:
            return _reached(connection(default, os.environ), given)
        except ValueError as error:
            raise TocsinError(f"--dsn: {error}") from None

    def accept(text: str) -> tuple[Connection, Inventory]:
        try:
            return _reached(connection(text, os.environ), given)
        except SourceError as error:
            raise ValueError(str(error)) from None

    if default != os.environ.get("DATABASE_URL"):
        return terminal.ask("Server", default, accept)
    # It may hold a password.
    return terminal.ask("Server", "$DATABASE_URL", lambda text: accept(default if text == "$DATABASE_URL" else text))


def _reached(made: Connection, given: Given) -> tuple[Connection, Inventory]:
    try:
        return made, asyncio.run(server.inventory(made.server(), given.relations))
    except SourceError as error:
        if error.reason is not SourceReason.AUTH or made.password or not given.asks:
            raise
        given.say(f"  {error.server}: {error.message}")
    password = terminal.ask("Password", "", terminal.filled, secret=True)
    made = replace(made, password=password)
    return made, asyncio.run(server.inventory(made.server(), given.relations))


def _is_open(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
    except OSError:
        return False


def relations(given: Given, inventory: Inventory) -> list[Relation]:
    """Choose the relations to watch. Raises TocsinError."""
    found = inventory.relations
    if not found:
        raise TocsinError(f"{inventory.version} has no view or table that this role may read; grant it SELECT")
    if given.relations:
        try:
            return [_named(name, found) for name in dict.fromkeys(given.relations)]
        except ValueError as error:
            raise TocsinError(f"--relation: {error}") from None
    if not given.asks:
        if len(found) > 1:
            given.say(f"watching {found[0].name}, the first of {len(found)}; --relation names others")
        return [found[0]]
    given.say("")
    width = max(len(one.name) for one in found)
    for number, one in enumerate(found, 1):
        given.say(terminal.printable(f"  {number:>3}  {one.name:<{width}}  {one.kind}, {rows_text(one.rows)}"))
    given.say("")

    def accept(text: str) -> list[Relation]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        numbered = [
            str(found[int(part) - 1].name) if part.isdigit() and 0 < int(part) <= len(found) else part for part in parts
        ]
        return [_named(part, found) for part in dict.fromkeys(numbered)]

    return terminal.ask("What to watch: numbers or names, with commas", "1", accept)


def rows_text(rows: str) -> str:
    """Rows for people."""
    return f"{rows} row{'' if rows == '1' else 's'}" if rows[-1:].isdigit() or rows.endswith("more") else rows


def _named(name: str, found: Sequence[Relation]) -> Relation:
    parts = name_parts(name)
    wanted = {sql_name(*parts), sql_name(*parts[1:]) if parts[:1] == ("public",) and len(parts) > 1 else ""}
    for one in found:
        if one.name in wanted:
            return one
    available = ", ".join(one.name for one in found[:20]) + (", ..." if len(found) > 20 else "")
    raise ValueError(f"there is no {name} that this role may read; there are {available}")


def watched(given: Given, made: Connection, inventory: Inventory) -> list[Proposal]:
    """Choose relations, read each, and choose its columns. Raises TocsinError where no one can be asked."""
    while True:
        try:
            return [_read(given, made, relation) for relation in relations(given, inventory)]
        except SourceError as error:
            if not given.asks:
                raise
            given.say(f"  {error}")
            given = replace(given, relations=())


def _read(given: Given, made: Connection, relation: Relation) -> Proposal:
    given.say(terminal.printable(f"reading {relation.name} twice ..."))
    one = proposal(asyncio.run(server.facts(made.server(), relation)))
    for warning in one.warnings:
        given.say(terminal.printable(f"  warning: {warning}"))
    return _asked(one) if given.asks else one


def _asked(one: Proposal) -> Proposal:
    columns = [column.name for column in one.facts.columns]
    print(terminal.printable(f"  columns: {', '.join(columns)}"))
    stable = [name for name in columns if name not in one.ignore.columns]
    proposed = one.key if one.key.columns else Choice(others(one), "")
    key = _choice("Key: columns that identify a row", proposed, stable, none=False)
    if key != proposed:  # labels and value depend on it
        one = proposal(one.facts, key)
    labels = _choice("Labels (- for none)", one.labels, columns, none=True)
    value = _choice("Value (- for none)", one.value, columns, none=True)
    return replace(one, key=key, labels=labels, value=replace(value, columns=value.columns[:1]))


def _choice(question: str, proposed: Choice, columns: list[str], *, none: bool) -> Choice:
    default = ",".join(proposed.columns) or ("-" if none else ",".join(columns))
    if proposed.why:
        print(f"  {proposed.why}")
    picked = terminal.ask(f"  {question}", default, terminal.names_of(columns, none=none))
    return proposed if picked == proposed.columns else Choice(picked, "chosen" if picked else "")


def check(given: Given) -> None:
    """Raise TocsinError over answers that no server is needed to refuse."""
    if given.channel is not None:
        try:
            _known_channel(given.channel)
        except ValueError as error:
            raise TocsinError(f"--channel: {error}") from None
    elif given.settings:
        raise TocsinError("--set is for a channel that --channel names")
    if given.channel is not None and not given.asks:
        for need in missing(given.channel, given.settings):
            if not need.default:
                raise TocsinError(f"--channel {given.channel} needs --set {need.name}=...")


def channel(given: Given) -> Chosen:
    """Choose where notifications go."""
    name = given.channel or "console"
    if given.channel is None and given.asks:
        given.say("")
        for one, kind in CHANNELS.items():
            given.say(f"  {one:<12}  {kind.what}")
        given.say("")
        name = terminal.ask("Where to send notifications", name, _known_channel)
    settings = dict(given.settings)
    for need in missing(name, settings):
        settings[need.name] = need.default
        if given.asks:
            settings[need.name] = terminal.ask(need.question, need.default, terminal.filled, secret=need.hidden)
    return chosen(name, settings)


def _known_channel(name: str) -> str:
    if name not in CHANNELS:
        raise ValueError(f"{name!r} is none of {', '.join(CHANNELS)}")
    return name
