"""The messages of channels for people where the configuration sets none: templates in `messages/` over the envelope,
`lasted` (seconds from start to end, or nothing) and `listed`."""

import functools
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Literal

from tocsin.envelope import Envelope, scope
from tocsin.templates import VARIABLES, Template

LISTED = 100
"""The most merged notifications that a mail lists."""

_KNOWN = VARIABLES | {"lasted", "listed"}


@functools.cache
def default(name: Literal["subject", "text", "brief", "html"]) -> Template:
    """A default template, compiled once for all alerts. `brief`: a few lines below the subject, for a chat or a
    telephone."""
    folder = files("tocsin.channels") / "messages"
    source = "".join((folder / f"{part}.jinja").read_text(encoding="utf-8") for part in ("common", name))
    return Template(source, place=f"the default {name}", known=_KNOWN, form="html" if name == "html" else "text")


def variables(envelope: Envelope) -> Mapping[str, object]:
    """The variables of the default templates."""
    return {**scope(envelope), "lasted": _lasted(envelope), "listed": LISTED}


def _lasted(envelope: Envelope) -> float | None:
    try:
        took = datetime.fromisoformat(envelope["at"]) - datetime.fromisoformat(envelope["started_at"])
    except ValueError:  # beyond the year 9999 a time is its number
        return None
    return took.total_seconds()
