"""What a ledger does about silences. Every method raises LedgerError, and nothing else, when the store fails."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tocsin.model import Notification
from tocsin.silences import OpenSilences, Silence
from tocsin.silences.ending import Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What silences mean for claimed notifications of one channel. All are those that are about to be sent."""

    held: Mapping[int, str]
    """Silence by `seq`: these are held."""
    passing: Sequence[Notification]
    """These are not silenced."""


class Withholding(Protocol):
    """What a dispatcher needs."""

    silences: OpenSilences
    """The silences, as this process knows them."""

    async def withhold(self, channel: str, judged: Judged) -> Collection[int]:
        """Hold claimed notifications, except for silences that have been closed meanwhile, and end their claims.
        Held notifications of the row of one that passes go before it: they become pending, to pass as well, without
        what came and went. Returns by `seq` what is not to be sent now: what is held, what a closed silence can no
        longer hold, and what passes after others."""
        ...


class Silencing(Protocol):
    """What operators and maintenance need."""

    async def silence(self, silence: Silence) -> None:
        """Add a silence."""
        ...

    async def end_silence(self, id_: str) -> bool:
        """End a silence now. Returns whether it had not ended."""
        ...

    async def list_silences(self) -> list[Silence]:
        """All silences that are kept, newest first."""
        ...

    async def held(self) -> dict[str, dict[str, int]]:
        """How many notifications each silence holds, by silence and channel."""
        ...

    async def held_of(self, fingerprint: str) -> list[Held]:
        """What silences hold of a row, of all channels, in the order of `seq`."""
        ...

    async def close_silences(self) -> list[Silence]:
        """Close the silences whose end has come: drop what came and went while they held it, and make the rest pending
        again, in order, in small steps. Returns those that this call has closed."""
        ...
