"""The demo's events, chosen so that everything happens soon.

A spike after three seconds fires for one organization and resolves when the window has passed, at fifteen. Every 25
seconds another follows: C, A, D, B, D and so on. Both auction rules match a bid in the first half minute. Between
spikes no organization exceeds its threshold. All of this follows from the seed; a test checks it.
"""

from datetime import timedelta

from tocsin_producer.plan import Plan

DEPLOYMENT_WINDOW = timedelta(seconds=12)
BID_WINDOW = timedelta(seconds=30)

PLAN = Plan(
    seed=1431,
    rate=0.25,
    first_spike_after=3,
    spike_interval=25,
    bid_rate=0.2,
    malformed=0.03,
)
