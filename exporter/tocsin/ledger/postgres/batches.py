"""What a commit writes beside the outbox, and what a load reads."""

from collections.abc import Iterable

from tocsin.ledger.base import Occurrence, Stored
from tocsin.ledger.postgres.transaction import Result, Transaction
from tocsin.ledger.postgres.values import storable
from tocsin.ledger.rows import columns_of, firing_of
from tocsin.model import Columns

FIRING = ("alert", "fingerprint", "phase", "started_at", "marked_at", "row", "counts")
ALERT = "SELECT progress(%s, %s, %s, %s, %s, %s)"
POSITION = """
    INSERT INTO positions VALUES (%s, %s, %s) ON CONFLICT (source, partition)
    DO UPDATE SET position = excluded.position
"""
_SIGHTING = """
    INSERT INTO sightings VALUES (%s, %s, %s, %s) ON CONFLICT (alert, key)
    DO UPDATE SET event = excluded.event, until = excluded.until
    WHERE sightings.until <= %s OR sightings.event = excluded.event
"""


def distinct(columns: Iterable[Columns]) -> set[Columns]:
    """The different lists of columns. By identity first: most are the same object, and hashing one for every row takes
    longer than the rest."""
    return {*{id(one): one for one in columns}.values()}


def see(db: Transaction, occurrence: Occurrence) -> Result:
    """Remember an event. The count says whether it is no duplicate of another one. An event that is delivered again is
    no duplicate of itself."""
    event = occurrence.routed[0]
    assert occurrence.key is not None
    values = (storable(event.alert), storable(occurrence.key), event.fingerprint, occurrence.until, event.at)
    return db.add(_SIGHTING, values)


def stored_of(found: Result, firings: Result) -> Stored:
    [(_, definition, columns, frontier)] = found.rows
    return Stored(
        definition=definition,
        columns=columns_of(columns),
        frontier=frontier,
        firings=[firing_of(*row) for row in firings.rows],
    )
