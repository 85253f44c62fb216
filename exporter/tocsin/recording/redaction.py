"""Hides columns of a recording: equal values stay equal, and no one can find out which they were.

A hidden value becomes a hash with a key that is made for the file and kept nowhere. The column becomes text. NULL stays
NULL.
"""

import hashlib
import secrets
from collections.abc import Collection
from typing import Any

from tocsin.errors import TocsinError
from tocsin.model import fingerprint
from tocsin.recording.lines import Json

_TEXT = 25
"""The type number of text in PostgreSQL."""


class Redaction:
    """Hides the columns of these names in the lines of one recording, which it changes."""

    def __init__(self, columns: Collection[str], key: bytes | None = None) -> None:
        """`key`: instead of one by chance."""
        self.columns = tuple(columns)
        self.unseen = {*columns}
        """Names that no line has had yet."""
        self._key = secrets.token_bytes(32) if key is None else key
        self._places: dict[str, list[int]] = {}
        """The places of hidden columns in rows, by alert."""

    def hide(self, line: Json) -> Json:
        """Hide the columns in a line. Raises TocsinError where an alert needs one as a number."""
        if not self.columns:
            return line
        if "state" in line:
            self._state(line)
        elif "rows" in line:
            places = self._places.get(line["rows"], [])
            line["updates"] = [(at, diff, self._row(row, places)) for at, diff, row in line["updates"]]
        else:
            places_of = [self._hidden(columns) for columns in line["columns"]]
            for event in line["list"]:
                self._event(event, places_of[event["columns"]])
        return line

    def _state(self, line: Json) -> None:
        if line["value"] in self.columns:
            raise TocsinError(
                f"{line['value']} is the value of alert {line['state']}, which would not be a number any more; "
                "leave it out of --redact, or leave out the alert"
            )
        names = [column[0] for column in line["columns"]]
        places = self._places[line["state"]] = self._hidden(line["columns"])
        key = [names.index(name) for name in line["key"] if name in names] or list(range(len(names)))
        hidden = []
        for known, phase, started_at, marked_at, row, counts in line["firings"]:
            shown = self._row(row, places)
            # The fingerprint is a hash of the key, from which a short value could be guessed.
            new = fingerprint(line["state"], [shown[place] for place in key]) if {*key} & {*places} else known
            hidden.append(
                (new, phase, started_at, marked_at, shown, [(n, self._row(one, places)) for n, one in counts])
            )
        line["firings"] = hidden

    def _event(self, event: Json, places: list[int]) -> None:
        before = event["row"]
        event["row"] = self._row(before, places)
        for place in places:
            if before[place] == event["id"]:
                event["id"] = event["row"][place]

    def _hidden(self, columns: Any) -> list[int]:
        """The places of hidden columns, which become text."""
        places = []
        for place, (name, _, _) in enumerate(columns):
            if name in self.columns:
                self.unseen.discard(name)
                columns[place] = (name, _TEXT, -1)
                places.append(place)
        return places

    def _row(self, row: Any, places: list[int]) -> Any:
        if not places:
            return row
        shown = list(row)
        for place in places:
            shown[place] = self._value(shown[place])
        return shown

    def _value(self, text: str | None) -> str | None:
        if text is None:
            return None
        return f"redacted-{hashlib.blake2b(text.encode(), key=self._key, digest_size=8).hexdigest()}"
