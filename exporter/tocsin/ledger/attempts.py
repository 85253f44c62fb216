"""Attempts that may end the process: what a ledger knows of those that began and never ended."""

from typing import Protocol

UNFINISHED = "unfinished", "the process ended during this attempt, or it is still under way"
"""Reason and detail of an attempt that has begun and not ended."""


class NotesAttempts(Protocol):
    """What is needed to send through code that may end the process. Raises LedgerError, and nothing else."""

    async def begin(self, id_: str) -> int:
        """Note that an attempt to send a notification begins, which may end this process. Returns how many such
        attempts before it have not ended since it became pending."""
        ...

    async def end(self, id_: str) -> None:
        """Note that the attempt has ended."""
        ...
