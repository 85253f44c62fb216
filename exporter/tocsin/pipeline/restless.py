"""Notices rows that change at every reading, as with a column `now() - due_at`: each change would be a notification."""

from collections.abc import Sequence

import structlog

from tocsin.model import Kind, Transition

log = structlog.get_logger(__name__)

_STREAK = 5
"""Batches with transitions, one after another, in which every firing row changed."""
_ROWS = 2
"""Whether the changes of a single row are news, only its reader knows."""


class Restless:
    """Warns once, with the columns that change each time."""

    def __init__(self, alert: str) -> None:
        self._alert = alert
        self._streak = 0
        self._places: set[int] = set()
        """The columns that changed in every row so far, by position."""

    def seen(self, transitions: Sequence[Transition], firing: int) -> None:
        """A batch was applied. `firing`: how many rows fire after it."""
        if self._streak == _STREAK or not transitions:
            return
        updated = [one for one in transitions if one.kind is Kind.UPDATED]
        changed = set.intersection(*map(_changed, updated)) if len(updated) >= max(_ROWS, firing) else set()
        self._places = changed & self._places if self._streak else changed
        self._streak = self._streak + 1 if self._places else 0
        if self._streak == _STREAK:
            log.warning(
                f"every row changed {_STREAK} times in a row; name columns whose changes are no news in `ignore`",
                alert=self._alert,
                columns=[updated[0].columns[place].name for place in sorted(self._places)],
            )


def _changed(update: Transition) -> set[int]:
    before = update.previous or ()
    return {place for place, (now, then) in enumerate(zip(update.row, before, strict=False)) if now != then}
