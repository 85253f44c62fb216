"""What an error of the server means for a step. Pure: it looks at SQLSTATE and text only.

Most of Materialize's errors are XX000, so the text has to tell (texts as seen on a live server).
"""

from dataclasses import dataclass
from enum import Enum, auto

from tocsin_setup.script import Item, Kind


class Trouble(Enum):
    """What to do about it."""

    BROKER_AWAY = auto()
    """Wait: the broker does not answer yet."""
    TOPIC_MISSING = auto()
    """Wait: the producer has not created the topic yet."""
    OVERTAKEN = auto()
    """Look again: somebody else changed what there is, perhaps a second setup."""
    NO_HISTORY = auto()
    """Go on without RETAIN HISTORY."""
    REFUSED = auto()
    """The role may not do this."""
    IN_USE = auto()
    """Something that the files do not know reads what was to be replaced."""
    FATAL = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as the server told it."""

    text: str
    sqlstate: str | None = None
    detail: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.text, self.detail, self.hint)))


_OVERTAKEN = (
    "already exists",
    "was dropped",
    "was concurrently",
    "another session modified",
    "unknown catalog item",
    "unknown schema",
    "unknown cluster",
    "unknown role",
)
_BROKER = ("transport failure", "brokertransport", "connection refused", "resolve", "timed out", "timeout", "metadata")


def trouble(item: Item, answer: Answer) -> Trouble:
    """What the answer to a statement of the item means."""
    text = f"{answer.text} {answer.detail}".lower()
    if item.kind in {Kind.CONNECTION, Kind.SOURCE}:
        if "topic does not exist" in text or "unknown topic" in text:
            return Trouble.TOPIC_MISSING
        if answer.sqlstate == "58000" or any(part in text for part in _BROKER):
            return Trouble.BROKER_AWAY
    if "retain history is not available" in text:
        return Trouble.NO_HISTORY
    if "still depended upon" in text:
        return Trouble.IN_USE
    if answer.sqlstate == "42501":
        return Trouble.REFUSED
    if answer.sqlstate == "40001" or any(part in text for part in _OVERTAKEN):
        return Trouble.OVERTAKEN
    return Trouble.FATAL


def is_final(connection_error: str) -> bool:
    """Whether trying to connect again is of no use. A server that is still starting gives other errors."""
    text = connection_error.lower()
    return "authentication" in text or "invalid connection option" in text or "no password supplied" in text
