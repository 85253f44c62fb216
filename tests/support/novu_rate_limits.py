"""The rate limit of Novu's free plan, for an inbox: a token bucket per category."""

import math
from collections.abc import Mapping

WINDOW_S = 5
BURST = 1.1
BULK_COST = 100
"""At any length. A cancel costs as much as a trigger."""
RATES: Mapping[str, int] = {"trigger": 60, "configuration": 20, "global": 30}
"""Requests a second by category."""


class RateLimits:
    """The buckets of one organisation; a `Limiter` of the inbox."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def __call__(self, category: str, bulk: bool, now: float) -> tuple[bool, Mapping[str, str]]:
        """Whether a request may pass, and the headers that say so."""
        rate = RATES[category]
        limit = rate * WINDOW_S
        burst = round(limit * BURST)
        # As on the live server, a used bucket fills up to one token less than a new one has.
        used, at = self._buckets.get(category, (float(burst), now))
        tokens = used if category not in self._buckets else min(burst - 1, used + (now - at) * rate)
        cost = BULK_COST if bulk else 1
        kind = "bulk" if bulk else "single"
        policy = (
            f'{limit};w={WINDOW_S};burst={burst};comment="token bucket";category="{category}"'
            f';cost="{kind}";serviceLevel="free"'
        )
        headers = {"ratelimit-limit": str(limit), "ratelimit-policy": policy}
        allowed = tokens >= cost
        self._buckets[category] = tokens - cost * allowed, now
        if allowed:
            rest = {"ratelimit-remaining": str(int(tokens - cost)), "ratelimit-reset": "1" if cost > 1 else "0"}
        else:
            wait = str(max(1, math.ceil((cost - tokens) / rate)))
            rest = {"ratelimit-remaining": "0", "ratelimit-reset": wait, "retry-after": wait}
        return allowed, headers | rest
