"""The default messages of channels for people: templates in `messages/` over the envelope, `lasted` (seconds from start
to end, or None) and `listed`."""

import functools
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Literal

from tocsin.envelope import Envelope, scope
from tocsin.templates import VARIABLES, Template

LISTED = 100
"""How many merged notifications a mail lists at most."""

_KNOWN = VARIABLES | {"lasted", "listed"}


@functools.cache
def default(name: Literal["subject", "text", "brief", "html"]) -> Template:
    """Return a default template, compiled once for all alerts. `brief`: a few lines below the subject, for a chat or an
    SMS."""
    folder = files("tocsin.channels") / "messages"
    source = "".join((folder / f"{part}.jinja").read_text(encoding="utf-8") for part in ("common", name))
    return Template(source, place=f"the default {name}", known=_KNOWN, form="html" if name == "html" else "text")


def variables(envelope: Envelope) -> Mapping[str, object]:
    """Return the variables of the default templates."""
    return {**scope(envelope), "lasted": _lasted(envelope), "listed": LISTED}


def _lasted(envelope: Envelope) -> float | None:
    try:
        took = datetime.fromisoformat(envelope["at"]) - datetime.fromisoformat(envelope["started_at"])
    except ValueError:  # a time beyond the year 9999 is a number
        return None
    return took.total_seconds()
