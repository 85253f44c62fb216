"""Novu's rate limit: a token bucket per category. A bulk costs 100 tokens at any length; a cancel is a trigger."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

WINDOW_S = 5
BURST = 1.1
BULK_COST = 100
FREE_PLAN: Mapping[str, int] = {"trigger": 60, "configuration": 20, "global": 30}
"""Requests a second on the free plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a request may pass, and the headers that say so."""

    allowed: bool
    headers: Mapping[str, str]


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True, kw_only=True)
class RateLimits:
    """The buckets of one organisation. `rates`: tokens a second by category."""

    rates: Mapping[str, int] = field(default_factory=lambda: FREE_PLAN)
    plan: str = "free"
    _buckets: dict[str, _Bucket] = field(default_factory=dict, init=False)

    def take(self, category: str, now: float, *, bulk: bool = False) -> Verdict:
        """Take the tokens of one request at `now`."""
        rate = self.rates[category]
        limit = rate * WINDOW_S
        burst = round(limit * BURST)
        bucket = self._buckets.get(category)
        if bucket is None:
            bucket = self._buckets[category] = _Bucket(burst, now)
        else:
            # As on the live server, a used bucket fills up to one token less than a new one has.
            bucket.tokens = min(burst - 1, bucket.tokens + (now - bucket.at) * rate)
            bucket.at = now
        cost = BULK_COST if bulk else 1
        lacking = cost - bucket.tokens
        policy = (
            f'{limit};w={WINDOW_S};burst={burst};comment="token bucket";category="{category}"'
            f';cost="{"bulk" if bulk else "single"}";serviceLevel="{self.plan}"'
        )
        headers = {"ratelimit-limit": str(limit), "ratelimit-policy": policy}
        if lacking > 0:
            wait = str(max(1, math.ceil(lacking / rate)))
            refused = {"ratelimit-remaining": "0", "ratelimit-reset": wait, "retry-after": wait}
            return Verdict(allowed=False, headers=headers | refused)
        bucket.tokens -= cost
        passed = {"ratelimit-remaining": str(int(bucket.tokens)), "ratelimit-reset": "1" if cost > 1 else "0"}
        return Verdict(allowed=True, headers=headers | passed)
