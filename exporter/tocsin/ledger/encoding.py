"""Firings and transitions as the ledger's columns, and back."""

import json

from tocsin.firing import Firing, Phase
from tocsin.model import Row, Transition

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def firing_values(alert: str, firing: Firing) -> tuple[object, ...]:
    """The columns of table `firings`."""
    plain = firing.counts == ((1, firing.row),)
    counts = "" if plain else _encode([[count, list(row)] for count, row in firing.counts])
    return (
        alert,
        firing.fingerprint,
        firing.phase,
        firing.started_at,
        firing.marked_at,
        _encode(list(firing.row)),
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
        transition.kind,
        transition.started_at,
        transition.at,
        shape,
        _encode(list(transition.row)),
        None if transition.previous is None else _encode(list(transition.previous)),
    )
