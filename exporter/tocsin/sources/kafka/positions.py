"""How far partitions have been read, as the ledger has it. Pure.

A topic that is deleted and made anew gives its offsets again, so a position holds for one topic and not for another of
the same name: `topic/partition@identity`. Where the brokers give topics no identity, and in ledgers that were written
before, it is `topic/partition`. Where they cease to give one, as brokers of an older version do, the topic is taken for
the one that the ledger knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """What a ledger says of the topics that are there now."""

    identities: dict[str, str]
    """Of the topics that are there: what the brokers say, or else the only one that the ledger knows; empty for
    unknown."""
    safe: dict[Place, int] = field(default_factory=dict)
    """The offset to go on from."""
    former: dict[Place, int] = field(default_factory=dict)
    """Where `safe` says nothing: how far the same place of a topic was read that is gone."""

    @property
    def topics(self) -> set[str]:
        """Those that have been read."""
        return {topic for topic, _ in (*self.safe, *self.former)}

    @property
    def anew(self) -> set[str]:
        """Those of which nothing has been read since they were made anew."""
        return self.topics - {topic for topic, _ in self.safe}


def positions(kept: Mapping[str, int], identities: Mapping[str, str]) -> Positions:
    """`kept`: as the ledger has it; `identities`: of the topics that are there, empty for unknown."""
    entries = [(*_read(text), offset) for text, offset in kept.items()]
    known: dict[str, set[str]] = {}
    for (topic, _), identity, _ in entries:
        if identity:
            known.setdefault(topic, set()).add(identity)
    by_name = {topic: now or _only(known.get(topic, set())) for topic, now in identities.items()}
    safe: dict[Place, int] = {}
    former: dict[Place, int] = {}
    for place, identity, offset in sorted(entries):  # so that an identity, which came later, overrules none
        now = by_name.get(place[0], "")
        # Written before topics had an identity here, and the topic has had no other one since.
        same = identity == now or (not identity and known.get(place[0], set()) <= {now})
        (safe if same else former)[place] = offset
    former = {place: offset for place, offset in former.items() if place not in safe}
    return Positions(identities=by_name, safe=safe, former=former)


def _only(identities: set[str]) -> str:
    return next(iter(identities)) if len(identities) == 1 else ""


def written(place: Place, identities: Mapping[str, str]) -> str:
    """The place as it stands in the ledger."""
    identity = identities.get(place[0], "")
    return f"{place[0]}/{place[1]}" + (f"@{identity}" if identity else "")


def _read(text: str) -> tuple[Place, str]:
    topic, _, rest = text.partition("/")  # which is in no name of a topic
    partition, _, identity = rest.partition("@")
    return (topic, int(partition)), identity
