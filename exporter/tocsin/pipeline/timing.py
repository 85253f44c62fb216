"""How long a pipeline on rows waits for what. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from tocsin.backoff import Backoff
from tocsin.errors import SourceReason

_REMADE = (SourceReason.MISSING, SourceReason.DROPPED, SourceReason.PERMISSION)
_REMADE_WITHIN = 600.0
"""Seconds within which a dropped view is recreated and may be read: `dbt run` drops every view, and creates one when
those before it are built. Until then it is checked every second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long to wait for what, in seconds; from the source's settings."""

    backoff: Backoff
    progress_interval: float
    """A healthy source reports progress within this time."""
    stale_after: float
    """The series are withdrawn after this time without progress."""
    exit_on_stall: bool

    def pause(self, reason: SourceReason, attempt: int, chance: Callable[[], float], *, down_for: float) -> float:
        """Seconds before the next attempt, after number `attempt` (from 0) failed. `down_for`: see `Reporter`."""
        if reason is SourceReason.REPLACED and attempt == 0:
            return 0.0  # the source works and has another object for the same name
        wait = self.backoff.delay(attempt, chance)
        return min(wait, 1.0) if reason in _REMADE and down_for < _REMADE_WITHIN else wait
