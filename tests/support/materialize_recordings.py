"""Recordings of real servers of Materialize.

A recording is a file of JSON lines: `conn` (number of the connection), `from` (`client` or `server`), `type` (the
message's type letter, `startup` for a first packet, `eof` where that side closed) and `body` (one character a byte).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from support.materialize.protocol import Row
from tocsin.sources.wire import fields

RECORDINGS = Path(__file__).parents[1] / "recordings"
FOLDERS = {"v26.8": RECORDINGS / "materialize", "v26.39": RECORDINGS / "materialize-26.39"}

Change = tuple[int, int | None, Row]
"""Timestamp, diff (None: a progress row) and row."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What the first client of a recording asked, and what it was sent from then on: pairs of type and body."""

    startup: dict[str, str]
    statement: str
    answers: list[tuple[str, bytes]]

    @property
    def changes(self) -> list[Change]:
        return [change(body) for kind, body in self.answers if kind == "d"]


def load(release: str, name: str, *, after: str = "Q") -> Recording:
    """Read a recording, with the answers to the client's first message of a type."""
    text = (FOLDERS[release] / f"{name}.jsonl").read_text(encoding="utf-8")
    entries = [entry for entry in map(json.loads, text.splitlines()) if entry["conn"] == 1]
    words = entries[0]["body"][4:].split("\0")
    asked = next(at for at, entry in enumerate(entries) if entry["type"] == after)
    sent = [(one["type"], one["body"].encode("latin-1")) for one in entries[asked + 1 :] if one["from"] == "server"]
    return Recording(dict(zip(words[::2], words[1::2], strict=False)), entries[asked]["body"].rstrip("\0"), sent)


def change(line: bytes) -> Change:
    ((timestamp, progressed, diff, *row),) = fields([line])
    return int(timestamp or 0), None if progressed == "t" else int(diff or 0), tuple(row)


def error_fields(body: bytes) -> tuple[str | None, ...]:
    """SQLSTATE, message, detail and hint of an ErrorResponse."""
    found = {text[:1]: text[1:] for text in body.decode().split("\0")}
    return tuple(found.get(letter) for letter in "CMDH")
