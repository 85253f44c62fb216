"""Values in the place of a query's parameters, `:name`. Pure."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TOKEN = re.compile(
    r"""
    (?P<skip> '(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | :: )
    | (?<![:\w]):(?P<name>[A-Za-z_]\w*)
    | \\(?P<escaped>:)
    """,
    re.DOTALL | re.VERBOSE,
)


def valid(parameters: object) -> bool:
    """Whether these are sets of values: none, a list of mappings, or a mapping of such lists."""
    groups = [*parameters.values()] if isinstance(parameters, dict) else [parameters]
    return parameters is None or all(
        isinstance(group, list) and all(isinstance(one, dict) for one in group) for group in groups
    )


def sets(parameters: object) -> list[Mapping[str, Any]]:
    """The sets of values with which a query runs: a list of them, or a mapping of lists whose combinations they are.
    `parameters` are valid."""
    if isinstance(parameters, list):
        return parameters
    if not isinstance(parameters, dict):
        return []
    groups = [[(name, one) for one in values] for name, values in parameters.items()]
    return [
        {f"{name}__{key}": value for name, one in choice for key, value in one.items()}
        for choice in itertools.product(*groups)
    ]


def query(sql: str, values: Sequence[Mapping[str, Any]]) -> str:
    """One query for all sets of values."""
    made = [_filled(sql, one) for one in values] or [_filled(sql, {})]
    if len(made) == 1:
        return made[0]
    # The query and its values are the user's own.
    parts = [f"SELECT * FROM (\n{one.strip().rstrip(';')}\n) AS set_{number}" for number, one in enumerate(made, 1)]  # noqa: S608
    return "\nUNION ALL\n".join(parts)


def _filled(sql: str, values: Mapping[str, Any]) -> str:
    def value(match: "re.Match[str]") -> str:
        if match["escaped"]:
            return ":"
        return literal(values[match["name"]]) if match["name"] in values else match[0]

    return _TOKEN.sub(value, sql)


def literal(value: Any) -> str:
    """A value as SQL writes it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
