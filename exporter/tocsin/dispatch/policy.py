"""How a channel is treated."""

from dataclasses import dataclass

from tocsin.backoff import Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a channel is treated. Times in seconds.

    `limit`: notifications held in memory; the rest waits in the ledger. `recovery_delay`: how long notifications found
    pending at the start wait, since the process before may have sent them a moment ago. `max_attempts` None: only
    `max_age` bounds retries.
    """

    concurrency: int
    timeout: float
    backoff: Backoff
    max_attempts: int | None
    max_age: float
    rate_limit: float | None = None
    recovery_delay: float = 0.0
    pause: Backoff = Backoff(initial=30.0, maximum=300.0)  # noqa: RUF009 - frozen
    limit: int = 10_000
