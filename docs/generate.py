"""Writes docs/settings.md, docs/metrics.md and the tables of sources and channels in README.md from the models and
tables that the program itself runs on.

`python docs/generate.py` writes them. With `--check` it writes nothing and exits with 1 when one is out of date.
"""

import argparse
import json
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from tocsin import registry
from tocsin.config import schema
from tocsin.config.sections import AlertSettings, LedgerSettings, LogSettings, WebSettings
from tocsin.errors import Reason, RefusedReason, SourceReason
from tocsin.exposition.table import CHANNEL_STATES, REFUSED_STATUSES, markdown
from tocsin.model import Kind

_DIRECTORY = Path(__file__).parent
_NOTICE = "<!-- Written by `python docs/generate.py`; change the models and tables it is made of, not this file. -->"

_SETTINGS = """\
# Settings

Everything that `tocsin.yaml` can say. `exporter/tocsin.example.yaml` has every key with a reason to set it;
`tocsin check` tells all that is wrong with a file, with its lines; `tocsin schema` prints a JSON Schema for editors.

- **Durations** are Prometheus's: `500ms`, `30s`, `5m`, `1h30m`, `7d`, and `0`. A bare number is refused, since it could
  be anything.
- **`${NAME}`** and **`${NAME:-default}`** stand for environment variables, anywhere in a value; the default is also
  taken for an empty one, and `$${` is `${` itself. An unquoted value gets its type after that, so `port: ${PORT}` is a
  number. Within `{ }` and `[ ]`, YAML wants quotes around it.
- **Secrets** are shown nowhere. Most can be given as a file instead (`password_file` for `password`), whose last line
  break is dropped.
- **Scalars** follow YAML 1.2: `NO`, `on` and `1:30` are text, and `true`, `false`, `null` and numbers what they look
  like.
- Keys of the root that begin with `x-` are left alone, as a place for anchors. Merge keys (`<<`) work.
- Paths are relative to the working directory, those in `alert_files` to the file that names them.
"""

_CHANNELS = """\
A mapping of names to channels. Each has a `type`, and by that these keys. Those with a star can also be said for one
alert, in its `notify`: `{channel: name, key: value}`.
"""

_METRICS = """\
# Metrics

`/metrics` serves, in the text format and in OpenMetrics, the gauges of the alerts and Tocsin's own metrics.

## The gauges of the alerts

Each alert with `gauges: true` is a gauge: one series for each row that fires now, with the labels of `labels` and
`static_labels`, and the number of `value`, or 1. A row that is gone is gone from the next scrape. A label whose
column is NULL or empty is left out. While a source gives nothing for longer than its `stale_after`, the series of its
alerts are withdrawn.

## Tocsin's own metrics

Every label value is there from the start. Names without a unit count things; moments are Unix timestamps, so age is
`time() - tocsin_..._timestamp_seconds`.
"""


_STATES = """
## States

A channel has one of four states, in `tocsin_channel_state`, on the page and in the API:

| state | meaning | `tocsin_channel_up` |
| --- | --- | --- |
| `up` | What is sent is delivered, or nothing was sent yet. | 1 |
| `failing` | At least the last five attempts failed and are tried again. | 1 |
| `refusing` | At least the last three notifications became dead letters, for whatever reason. | 0 |
| `paused` | The receiver refuses credentials or plan. Everything waits. | 0 |

`failing` and `refusing` end with the first delivery. A channel that is refusing and whose receiver goes down then is
`failing`, and still not up. An output to Alertmanager has the same states: it is `refusing` if every Alertmanager
refuses every alert. An alert on events is `refusing` if at least the last three messages that its source delivered are
not valid events; `tocsin_alert_up` is then 0. Requests that an `http` source refuses do not change the state, since
anyone can send them; they are counted, and shown with the alert.

Readiness (`/readyz`) is 503 while Tocsin does not see the rows of an alert, cannot write its ledger or is starting.
What others refuse is no reason to restart Tocsin: with a channel that is not `up`, or an alert that is `refusing`,
readiness is 200, and the answer has a line for each. `/api/v1/status` has the same in `warnings`.

Log lines that would repeat (`notification parked`, `not an event`, `recipient refused`, ...) are logged in full once,
and then at most once a minute with the number of those that followed in `repeats`.
"""


def settings_page() -> str:
    """docs/settings.md."""
    parts = [_NOTICE, "", _SETTINGS]
    for name, model in (("ledger", LedgerSettings), ("web", WebSettings), ("log", LogSettings)):
        parts += _section(f"## `{name}`", schema.section(model))
    sources = {kind: schema.source(kind) for kind in registry.SOURCES}
    parts += ["## `sources`", "", "A mapping of names to sources. Each has a `type`, and by that these keys.", ""]
    parts += _family(sources, "source")
    levels = registry.LEVELS
    channels = {kind: schema.channel(kind) for kind in registry.channel_types() if kind not in levels}
    parts += ["## `channels`", "", _CHANNELS]
    parts += _family(channels, "channel", {key for kind in channels for key in schema.options(kind)["properties"]})
    for kind in levels:
        # These have no outbox, and so none of the keys that every channel has.
        parts += _member(kind, schema.channel(kind), (), schema.options(kind)["properties"])
    parts += ["## `alerts`", "", "A mapping of names to alerts.", ""]
    alert = schema.section(AlertSettings)
    parts += [alert["description"], "", *_table(alert["properties"], alert.get("required", ())), ""]
    parts += ["## `alert_files`", "", schema.ALERT_FILES_MEANING, ""]
    return "\n".join(parts).rstrip() + "\n"


def metrics_page() -> str:
    """docs/metrics.md."""
    values: list[tuple[str, str, type[StrEnum]]] = [
        ("`kind`", "what happened", Kind),
        ("`reason` of a source", "why it gives no rows", SourceReason),
        ("`reason` of what a source delivered", "why it is no event", RefusedReason),
        ("`reason` of a channel", "why a delivery failed", Reason),
    ]
    parts = [_NOTICE, "", _METRICS, markdown()]
    parts += ["## Values of labels", ""]
    parts += _rows(
        ("label", "tells", "values"),
        [
            *((label, tells, ", ".join(f"`{member.value}`" for member in words)) for label, tells, words in values),
            ("`state`", "the state of a channel", ", ".join(f"`{state}`" for state in CHANNEL_STATES)),
            ("`code`", "the status of an answer", ", ".join(f"`{code}`" for code in (*REFUSED_STATUSES, "other"))),
        ],
    )
    parts += [_STATES]
    return "\n".join(parts).rstrip() + "\n"


def kinds_table(readme: str, docs: Path = _DIRECTORY) -> str:
    """README.md with today's tables of sources and channels between its marks. `docs`: where the pages on each are."""
    families = {
        "sources": {kind: schema.source(kind) for kind in registry.SOURCES},
        "channels": {kind: schema.channel(kind) for kind in registry.channel_types()},
    }
    for family, members in families.items():
        rows = [_kind(kind, node["description"], docs / family / f"{kind}.md") for kind, node in members.items()]
        table = "\n".join(_rows(("type", "what it is", "needs"), rows))
        begin, end = f"<!-- {family}, written by `make docs` -->\n", f"<!-- end of {family} -->"
        before, _, rest = readme.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md lacks the marks {begin.strip()} and {end}")
        readme = f"{before}{begin}\n{table}\n\n{end}{after}"
    return readme


def _kind(kind: str, description: str, page: Path) -> tuple[str, str, str]:
    meaning, _, extra = description.partition(" Needs the extra ")
    name = f"[`{kind}`](docs/{page.parent.name}/{page.name})" if page.is_file() else f"`{kind}`"
    return name, meaning, extra.partition(": ")[2].rstrip(".").replace("pip install ", "").strip("'")


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page}
"""File name -> what makes its text."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` tell which of them are out of date. The exit status."""
    parser = argparse.ArgumentParser(prog="python docs/generate.py", description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    parser.add_argument("--directory", type=Path, default=_DIRECTORY, help="where the pages are")
    chosen = parser.parse_args(arguments)
    stale = []
    readme = chosen.directory.parent / "README.md"
    wanted = {name: (chosen.directory / name, make()) for name, make in PAGES.items()}
    if readme.exists():
        wanted["README.md"] = readme, kinds_table(readme.read_text(encoding="utf-8"), chosen.directory)
    for name, (page, text) in wanted.items():
        if page.exists() and page.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not chosen.check:
            page.write_text(text, encoding="utf-8")
    if chosen.check and stale:
        print(f"out of date: {', '.join(stale)}; run: make docs", file=sys.stderr)
        return 1
    return 0


def _section(heading: str, node: Mapping[str, Any]) -> list[str]:
    return [heading, "", node["description"], "", *_table(node["properties"], node.get("required", ())), ""]


def _family(members: Mapping[str, Mapping[str, Any]], word: str, starred: Iterable[str] = ()) -> list[str]:
    """What all types have in common, then what each has of its own."""
    starred = {*starred}
    nodes = [member["properties"] for member in members.values()]
    common = {
        key: node
        for key, node in nodes[0].items()
        if key != "type" and all(key in other and other[key] == node for other in nodes)
    }
    parts = [f"### Every {word}", "", *_table(common, (), starred), ""]
    for kind, member in members.items():
        parts += _member(kind, member, common, starred)
    return parts


def _member(kind: str, member: Mapping[str, Any], common: Container[str], starred: Iterable[str]) -> list[str]:
    """One type: what it has beside what all have in common."""
    own = {key: node for key, node in member["properties"].items() if key not in common and key != "type"}
    secrets = [key for key in own if f"{key}_file" in own and not _optional(own[key])]
    table = _table(own, [*member.get("required", ()), *secrets], starred)
    return [f"### `type: {kind}`", "", member["description"], "", *table, ""]


def _optional(node: Mapping[str, Any]) -> bool:
    return {"type": "null"} in node.get("anyOf", ())


def _table(properties: Mapping[str, Any], required: Iterable[str], starred: Iterable[str] = ()) -> list[str]:
    rows = []
    for key, node in properties.items():
        default = "required" if key in required else _default(node)
        name = f"`{key}`" + ("\\*" if key in starred else "")
        rows.append((name, _words(node), default, node.get("description", "")))
    return _rows(("key", "type", "default", "meaning"), rows)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def _default(node: Mapping[str, Any]) -> str:
    value = node.get("default")
    if value in (None, [], {}, ""):
        return ""
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _words(node: Mapping[str, Any]) -> str:
    """What a value looks like, for a person."""
    if "anyOf" in node and "type" not in node:
        return " or ".join(dict.fromkeys(_words(one) for one in node["anyOf"] if one != {"type": "null"}))
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if schema.is_duration(node):
        return "duration"
    kind = node.get("type")
    if kind == "array":
        return f"list of {_words(node['items'])}" if node.get("items") else "list"
    if kind == "object":
        properties = node.get("properties")
        if properties:
            return "mapping with " + ", ".join(f"`{key}`" for key in properties)
        inner = node.get("additionalProperties")
        return f"mapping to {_words(inner)}" if isinstance(inner, dict) and inner else "mapping"
    if node.get("format") == "password":
        return "secret"
    if node.get("format") == "path":
        return "file"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    return words.get(str(kind), "anything")


if __name__ == "__main__":
    sys.exit(main())
