"""How a channel or a level output is treated."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelPolicy:
    """How a level output is treated. Times in seconds.

    `resend`: after how long what stands is told again. `retention`: for how long that goes on for what has ended; 15
    minutes in Prometheus. `limit`: the most firings that are told. `debounce`: how long to wait after a change for
    others.
    """

    resend: float
    backoff: Backoff
    limit: int
    retention: float = 900.0
    debounce: float = 0.2
    pause: Backoff = Backoff(initial=30.0, maximum=300.0)  # noqa: RUF009 - frozen
