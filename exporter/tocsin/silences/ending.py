"""What becomes of notifications that a silence has held, at its end."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tocsin.model import Kind

EPISODE = "began and ended while it was silenced"
EVENT = "an event while it was silenced"
REPEATED = "a reminder while it was silenced"


class Held(NamedTuple):
    """A notification that is held back."""

    seq: int
    channel: str
    ordering_key: str
    silence: str
    alert: str
    fingerprint: str
    started_at: int
    kind: Kind
    goes_on: bool
    """Whether its episode still fires, or has a pending notification for the channel that is not held."""
    may_be_known: bool = False
    """Whether the receiver may have it: an attempt failed, or was under way when a process ended."""


def came_and_went(held: Iterable[Held]) -> dict[int, str]:
    """Why notifications are dropped, by `seq`. The others are to be sent. `held`: all of each row and channel, in the
    order of `seq`.

    Events and reminders belong to a moment that has passed. An episode whose `fired` was held is over if its `resolved`
    was held too or, where the channel gets none, if it no longer fires. Its changes in between go with it. A `resolved`
    of what was announced before, or may have been, is sent.
    """
    why: dict[int, str] = {}
    begun: defaultdict[tuple[str, str, str, int], list[Held]] = defaultdict(list)
    for one in held:
        episode = begun[one.channel, one.alert, one.fingerprint, one.started_at]
        if one.kind is Kind.EVENT:
            why[one.seq] = EVENT
        elif one.kind is Kind.REPEATED:
            why[one.seq] = REPEATED
        elif (one.kind is Kind.FIRED and not one.may_be_known) or episode:
            episode.append(one)
            if one.kind is Kind.RESOLVED:
                why |= {each.seq: EPISODE for each in episode}
                episode.clear()
    over = (each for episode in begun.values() for each in episode if not each.goes_on)
    return why | {each.seq: EPISODE for each in over}
