"""Firings and transitions as the ledger's columns, and back."""

import json
from json.encoder import encode_basestring as _quoted

from tocsin.firing import Firing, Phase
from tocsin.model import Row, Transition


def row_text(row: Row) -> str:
    """A row as a JSON array. Joined by hand: this runs for every row that fires, and an encoder costs thrice as
    much."""
    return f"[{','.join(['null' if text is None else _quoted(text) for text in row])}]"


def firing_values(alert: str, firing: Firing) -> tuple[object, ...]:
    """The columns of table `firings`."""
    plain = firing.counts == ((1, firing.row),)
    counts = "" if plain else f"[{','.join(f'[{count},{row_text(row)}]' for count, row in firing.counts)}]"
    return (
        alert,
        firing.fingerprint,
        firing.phase.value,
        firing.started_at,
        firing.marked_at,
        row_text(firing.row),
        counts,
    )


def firing_of(fingerprint: str, phase: str, started_at: int, marked_at: int, row: str, counts: str) -> Firing:
    """A firing from its columns (without the alert)."""
    shown: Row = tuple(json.loads(row))
    return Firing(
        fingerprint=fingerprint,
        phase=Phase(phase),
        started_at=started_at,
        marked_at=marked_at,
        row=shown,
        counts=tuple((count, tuple(other)) for count, other in json.loads(counts)) if counts else ((1, shown),),
    )


def transition_values(number: int, transition: Transition, shape: int) -> tuple[object, ...]:
    """The columns of table `transitions`."""
    return (
        number,
        transition.alert,
        transition.fingerprint,
        transition.kind.value,
        transition.started_at,
        transition.at,
        shape,
        row_text(transition.row),
        None if transition.previous is None else row_text(transition.previous),
    )
