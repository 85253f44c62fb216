"""How far partitions have been read, as the ledger has it. Pure.

A topic that is deleted and recreated gives its offsets again, so a position belongs to one topic id:
`topic/partition@id`. Brokers before Kafka 2.8 give no ids; there it is `topic/partition`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """The ledger's positions in the topics that exist now."""

    ids: Mapping[str, str]
    """Topic -> id; empty where the brokers give none."""
    current: dict[Place, int] = field(default_factory=dict)
    """The offset to continue from."""
    former: dict[Place, int] = field(default_factory=dict)
    """The offset reached in a topic of this name that no longer exists, where `current` has none."""

    @property
    def topics(self) -> set[str]:
        """The topics that were read before, now or under another id."""
        return {topic for topic, _ in (*self.current, *self.former)}


def positions(stored: Mapping[str, int], ids: Mapping[str, str]) -> Positions:
    """Sort the ledger's positions by whether they belong to the topics with these ids."""
    current: dict[Place, int] = {}
    former: dict[Place, int] = {}
    # Positions without an id sort first, so that one with an id wins.
    for place, id_, offset in sorted((*_parsed(text), offset) for text, offset in stored.items()):
        known = ids.get(place[0], "")
        # Where only one side has an id, the brokers were upgraded or downgraded: it is taken for the same topic.
        same = id_ == known or not id_ or not known
        (current if same else former)[place] = offset
    return Positions(
        ids=ids,
        current=current,
        former={place: offset for place, offset in former.items() if place not in current},
    )


def stored(place: Place, ids: Mapping[str, str]) -> str:
    """Return the key of a place in the ledger."""
    id_ = ids.get(place[0], "")
    return f"{place[0]}/{place[1]}" + (f"@{id_}" if id_ else "")


def _parsed(text: str) -> tuple[Place, str]:
    topic, _, rest = text.partition("/")  # no topic name has a slash
    partition, _, id_ = rest.partition("@")
    return (topic, int(partition)), id_
