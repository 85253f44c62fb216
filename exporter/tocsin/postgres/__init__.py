"""Servers that speak PostgreSQL's protocol: the settings that sources and channels share, connections, and names as SQL
writes them."""

from tocsin.postgres.connections import PgConnection, about_login, connected, failure_text, within
from tocsin.postgres.names import MAX_NAME, code, derived_name, granted, name_parts, relation, script
from tocsin.postgres.settings import OUTPUT, Name, Positive, RelationName, Server, Text

__all__ = [
    "MAX_NAME",
    "OUTPUT",
    "Name",
    "PgConnection",
    "Positive",
    "RelationName",
    "Server",
    "Text",
    "about_login",
    "code",
    "connected",
    "derived_name",
    "failure_text",
    "granted",
    "name_parts",
    "relation",
    "script",
    "within",
]
