"""Session variables, and what the server says of itself at the start."""

import re
import uuid

from support.materialize.releases import Release

_COMMAND_OPTION = re.compile(r"(?:--|-c\s*)([A-Za-z_]+)=(\S*)")

REPORTED = {
    "application_name": "",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "integer_datetimes": "on",
    "server_version": "9.5.0",
    "standard_conforming_strings": "on",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "cluster": "quickstart",
    "cluster_replica": "",
    "default_cluster_replication_factor": "1",
    "database": "materialize",
    "search_path": "public",
    "mz_version": "",
}
"""The variables that the server reports at the start, in its order, with their values unless others are asked for."""

_UNREPORTED = {
    "transaction_isolation": "strict serializable",
    "statement_timeout": "60 s",
    "idle_in_transaction_session_timeout": "120 s",
    "extra_float_digits": "3",
    "client_min_messages": "notice",
}


def initial(parameters: dict[str, str], release: Release) -> dict[str, str]:
    """Variables by lower-case name, from a start-up packet and its ``options`` (``--n=value``, ``-c n=value``)."""
    values = {name.lower(): value for name, value in (REPORTED | _UNREPORTED).items()}
    values["mz_version"] = release.mz_version
    asked = {name: value for name, value in parameters.items() if name not in ("user", "options", "replication")}
    asked |= dict(_COMMAND_OPTION.findall(parameters.get("options", "")))
    values |= {name.lower(): value for name, value in asked.items()}
    values["client_encoding"] = "UTF8"
    return values


def reported_name(name: str) -> str | None:
    """A variable's name as the server reports it, ``None`` for one that it does not report."""
    return next((reported for reported in REPORTED if reported.lower() == name), None)


def welcome(release: Release, user: str, cluster: str, values: dict[str, str]) -> str:
    """The notice that greets a client."""
    lines = [
        f"connected to Materialize {release.version}",
        *(f"  {line}" for line in release.place),
        f"  User: {user}",
        f"  Cluster: {cluster}",
        f"  Database: {values['database']}",
        f"  Schema: {values['search_path']}",
        f"  Session UUID: {uuid.uuid4()}",
        "",
        "Issue a SQL query to get started. Need help?",
        "  View documentation: https://materialize.com/s/docs",
        "  Join our Slack community: https://materialize.com/s/chat",
        "    ",
    ]
    return "\n".join(lines)
