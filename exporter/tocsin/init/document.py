"""The configuration file that `tocsin init` writes. Pure."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tocsin.config.semantics import NAME
from tocsin.init.channels import Chosen, Place
from tocsin.init.connection import Connection
from tocsin.init.facts import Facts, Inventory
from tocsin.init.proposal import Proposal, others

_PLAIN = re.compile(r"[A-Za-z_/.][\w./@-]*|[0-9]{1,5}|[0-9]+(\.[0-9]+){3}")
_NOT_TEXT = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|[.]?nan|[.]inf")
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = ("le", "quantile")
_COMMENT_AT = 40
_WIDTH = 118


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A configuration and the secrets that belong beside it."""

    text: str
    secret_files: Mapping[str, str]
    """File -> secret."""
    variables: Mapping[str, str]
    """Variable -> secret, where the configuration is printed."""
    alerts: Mapping[str, Facts]
    """Alert -> what is known of its relation."""


def scalar(text: str) -> str:
    """Text as YAML, quoted where it has to be, and never read as a variable of the environment."""
    if _PLAIN.fullmatch(text) and not _NOT_TEXT.fullmatch(text):
        return text
    if re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", text):
        return text
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)


def flow(texts: Iterable[str]) -> str:
    """A list as YAML."""
    return "[" + ", ".join(map(scalar, texts)) + "]"


def commented(text: str, comment: str) -> str:
    """A line with a comment, cut at a word where it would be too wide."""
    if not comment:
        return text
    start = f"{text:<{_COMMENT_AT - 2}}  # "
    room = max(_WIDTH - len(start), 24)
    if len(comment) > room:
        comment = comment[: room - 4].rpartition(" ")[0].rstrip(",;:") + " ..."
    return start + "".join(char if char.isprintable() else " " for char in comment)


def document(
    inventory: Inventory, connection: Connection, channel: Chosen, proposals: Sequence[Proposal], place: Place
) -> Written:
    """Write the configuration."""
    secrets = _secrets(connection, channel)
    files = {place.written(*key)[1]: text for key, text in secrets.items()} if place.file is not None else {}
    variables = {} if place.file is not None else {place.written(*key)[1][2:-1]: text for key, text in secrets.items()}
    lines = [
        f"# By `tocsin init`, for {inventory.version}. Every key is in docs/settings.md.",
        *_source(inventory, connection, place),
        *_channel(channel, place),
        "alerts:",
    ]
    alerts: dict[str, Facts] = {}
    for one in proposals:
        name = alert_name(one.facts.relation.name, list(alerts))
        alerts[name] = one.facts
        lines += _alert(name, one, channel)
    return Written(text="\n".join(lines) + "\n", secret_files=files, variables=variables, alerts=alerts)


def alert_name(relation: str, taken: Sequence[str]) -> str:
    """A name for an alert on a relation that is a metric's name, too."""
    name = re.sub(r"\W+", "_", relation.rpartition(".")[2], flags=re.ASCII).strip("_")[:90] or "alert"
    name = re.sub(r"^(?=[0-9]|tocsin_|process_|python_)", "of_", name)
    name = re.sub(r"_(total|sum|count|bucket)$", r"_\1_now", name)
    assert re.fullmatch(NAME, name)
    number = sum(re.fullmatch(re.escape(name) + r"(_\d+)?", one) is not None for one in taken)
    return f"{name}_{number + 1}" if number else name


def _secrets(connection: Connection, channel: Chosen) -> dict[tuple[str, str], str]:
    """(who needs it, setting) -> secret."""
    found = {("database", "password"): connection.password} if connection.password else {}
    return found | {(channel.name, setting): text for setting, text in channel.secrets.items()}


def _source(inventory: Inventory, connection: Connection, place: Place) -> Iterator[str]:
    postgres = inventory.kind == "postgres"
    how = "read every 10 s, or at once on NOTIFY" if postgres else "changes arrive as they happen"
    yield "sources:"
    yield "  database:"
    yield commented(f"    type: {inventory.kind}", f"{how}: docs/sources/{inventory.kind}.md")
    for name, text in connection.settings().items():
        yield f"    {name}: {scalar(text)}"
    if connection.password:
        name, text = place.written("database", "password")
        yield commented(f"    {name}: {scalar(text)}", "not in this file")
    elif connection.from_variable:
        yield commented("    password: ${PGPASSWORD}", "not in this file")
    if inventory.cluster:
        yield commented(f"    cluster: {scalar(inventory.cluster)}", "runs the subscriptions")


def _channel(channel: Chosen, place: Place) -> Iterator[str]:
    if not channel.type:
        return
    yield "channels:"
    yield f"  {channel.name}:"
    yield f"    type: {channel.type}"
    for name, value in channel.settings.items():
        yield f"    {name}: {scalar(value) if isinstance(value, str) else flow(value)}"
    for name in channel.secrets:
        setting, text = place.written(channel.name, name)
        yield commented(f"    {setting}: {_listed(setting, text)}", "not in this file")


def _listed(setting: str, text: str) -> str:
    return f"[{json.dumps(text)}]" if setting == "urls" else scalar(text)  # a list takes no bare variable


def _alert(name: str, proposal: Proposal, channel: Chosen) -> Iterator[str]:
    relation = proposal.facts.relation
    yield f"  {name}:"
    yield "    source: database"
    yield commented(f"    relation: {scalar(relation.name)}", f"{relation.kind}, {_rows(relation.rows)}")
    key = proposal.key.columns or others(proposal)
    yield commented(f"    key: {flow(key)}", proposal.key.why or "all columns: none is unique")
    yield commented(f"    labels: {_labels(proposal.labels.columns)}", proposal.labels.why)
    if proposal.value.columns:
        yield commented(f"    value: {scalar(proposal.value.columns[0])}", f"of the gauge {name}: {proposal.value.why}")
    if proposal.ignore.columns:
        yield commented(f"    ignore: {flow(proposal.ignore.columns)}", f"no news: {proposal.ignore.why}")
    if channel.type:
        if proposal.silent:
            yield commented("    initial: silent", "rows that are there at the first start are not notified")
        yield f"    notify: [{channel.name}]"


def _rows(rows: str) -> str:
    return f"{rows} row{'' if rows == '1' else 's'}" if rows[-1:].isdigit() else rows or "rows not counted"


def _labels(columns: Sequence[str]) -> str:
    """A list, or a mapping where a column's name is not one of a label."""
    labels = {label_name(column): column for column in columns}
    if all(label == column for label, column in labels.items()):
        return flow(columns)
    return "{" + ", ".join(f"{label}: {scalar(column)}" for label, column in labels.items()) + "}"


def label_name(column: str) -> str:
    """The label of a column."""
    if _LABEL.fullmatch(column) and column not in _TAKEN:
        return column
    name = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_") or "column"
    return f"column_{name}" if not _LABEL.fullmatch(name) or name in _TAKEN else name
