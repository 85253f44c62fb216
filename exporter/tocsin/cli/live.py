"""`tocsin alerts` and `tocsin tail`: the state of the running process, over HTTP."""

import json
import sys
import urllib.parse
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

from tocsin.cli import Exit
from tocsin.cli.running import Running, running
from tocsin.cli.tables import cell, printable, table
from tocsin.terminal import has_colours

_COLOURS = {"fired": 31, "updated": 33, "repeated": 33, "resolved": 32, "event": 36}


def command(chosen: Namespace) -> Exit:
    process = running(chosen)
    return _alerts(process, chosen) if chosen.command == "alerts" else _tail(process, chosen)


def _alerts(process: Running, chosen: Namespace) -> Exit:
    query = {"limit": "1000", **({"alert": chosen.alert} if chosen.alert else {})}
    with process.get(f"/api/v1/firing?{urllib.parse.urlencode(query)}") as answer:
        found = json.load(answer)
    if chosen.json:
        for row in found["firing"]:
            print(json.dumps(row))
        return Exit.OK
    rows = [
        (row["alert"], row["phase"], _labels(row["labels"]), cell(row["value"]), row["started_at"])
        for row in found["firing"]
    ]
    table(("alert", "phase", "labels", "value", "since"), rows, empty="nothing fires")
    if found["truncated"]:
        print(f"only the first 1000 rows are shown of: {', '.join(found['truncated'])}", file=sys.stderr)
    return Exit.OK


def _tail(process: Running, chosen: Namespace) -> Exit:
    for transition in _events(process, opened=_say_beginning):
        if chosen.alert and transition["alert"] != chosen.alert:
            continue
        print(json.dumps(transition) if chosen.json else _line(transition), flush=True)
    print("the stream ended", file=sys.stderr)
    return Exit.FAILED


def _say_beginning() -> None:
    print("the latest transitions first (up to 200), then each as it happens", file=sys.stderr, flush=True)


def _events(process: Running, opened: Callable[[], None]) -> Iterator[dict[str, Any]]:
    with process.get("/api/v1/transitions") as stream:
        opened()
        for line in stream:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def _line(transition: dict[str, Any]) -> str:
    kind = f"{transition['kind']:<8}"
    if has_colours(sys.stdout):
        kind = f"\x1b[{_COLOURS[transition['kind']]}m{kind}\x1b[0m"
    value = cell(transition["value"])
    parts = [transition["at"], kind, transition["alert"], _labels(transition["labels"]), value and f"= {value}"]
    return "  ".join(part for part in (*parts[:2], *map(printable, parts[2:])) if part)


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())
