"""Names and scripts as SQL writes them. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence

from psycopg import sql

MAX_NAME = 63
"""Bytes. PostgreSQL truncates longer names in some places and refuses them in others."""


def relation(name: str) -> sql.Identifier:
    """A relation's name as SQL writes it (`schema.view`, `"Mixed Case".view`) as a quoted identifier.

    Unquoted parts are folded to lower case, as PostgreSQL and Materialize do. Raises ValueError for anything
    else.
    """
    return sql.Identifier(*name_parts(name))


def name_parts(name: str) -> tuple[str, ...]:
    """The parts of a relation's name, as in the catalog. Raises ValueError as `relation` does."""
    parts = re.findall(r'"((?:[^"]|"")+)"|([A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)', name)
    written = ".".join(f'"{quoted}"' if quoted else plain for quoted, plain in parts)
    if not parts or written != name or len(parts) > 3:
        raise ValueError(
            f'{name!r} is not a relation name; write schema.name, with double quotes where needed: "My View"'
        )
    return tuple(quoted.replace('""', '"') if quoted else plain.lower() for quoted, plain in parts)


def script(steps: Iterable[sql.Composable]) -> str:
    """SQL for an administrator to read and run: the steps in one transaction."""
    whole = [sql.SQL("BEGIN;"), *steps, sql.SQL("COMMIT;")]
    return sql.SQL("\n\n").join(whole).as_string(None) + "\n"


def granted(role: str | None, rights: Mapping[str, Sequence[str]]) -> list[sql.Composed]:
    """Statements that create a role if it does not exist and grant it rights on relations and their schemas; none
    without a role."""
    if role is None:
        return []
    name, text = sql.Identifier(role), sql.Literal(role)
    made = sql.SQL(
        "\nBEGIN\n  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN CREATE ROLE {} LOGIN; END IF;\nEND\n"
    )
    schemas = sorted({parts[-2] for parts in map(name_parts, rights) if len(parts) > 1})
    lines = [sql.SQL("DO {};").format(code(made.format(text, name)))]
    lines += [sql.SQL("GRANT USAGE ON SCHEMA {} TO {};").format(sql.Identifier(schema), name) for schema in schemas]
    lines += [
        sql.SQL("GRANT {} ON {} TO {};").format(sql.SQL(", ".join(allowed)), relation(table), name)
        for table, allowed in rights.items()
    ]
    return [sql.SQL("\n").join(lines)]


def code(body: sql.Composed) -> sql.Composable:
    """The text of a function, quoted with dollars if it has none itself, so that it is readable."""
    text = body.as_string(None)
    return sql.Literal(text) if "$" in text else sql.SQL("$${}$$").format(body)


def derived_name(of: Sequence[str], suffix: str) -> str:
    """A name for an object that belongs to a relation, without its schema, short enough for PostgreSQL."""
    return of[-1].encode()[: MAX_NAME - len(suffix)].decode(errors="ignore") + suffix
