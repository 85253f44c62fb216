"""Servers that speak PostgreSQL's protocol: the settings that sources and channels share, connections, and names as SQL
writes them."""

from tocsin.postgres.connections import (
    PgConnection,
    about_limit,
    about_login,
    close,
    connected,
    failure_fix,
    failure_text,
    within,
)
from tocsin.postgres.names import MAX_NAME, code, derived_name, granted, name_parts, relation, script
from tocsin.postgres.pool import Pool, still_works
from tocsin.postgres.settings import (
    BEGIN,
    OUTPUT,
    Name,
    Positive,
    RelationName,
    Server,
    SettingsMade,
    Text,
    milliseconds,
    parsed,
    without_password,
)

__all__ = [
    "BEGIN",
    "MAX_NAME",
    "OUTPUT",
    "Name",
    "PgConnection",
    "Pool",
    "Positive",
    "RelationName",
    "Server",
    "SettingsMade",
    "Text",
    "about_limit",
    "about_login",
    "close",
    "code",
    "connected",
    "derived_name",
    "failure_fix",
    "failure_text",
    "granted",
    "milliseconds",
    "name_parts",
    "parsed",
    "relation",
    "script",
    "still_works",
    "within",
    "without_password",
]
