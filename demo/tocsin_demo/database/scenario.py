"""What the demo plays, chosen so that a person who watches sees everything soon.

A spike after three seconds fires for one organization and is over when the window has passed it, at fifteen. Every 25
seconds another follows: C, A, D, B, D and so on. Both auction rules catch something in the first half minute. Between
spikes no organization comes above its threshold. All of this follows from the seed, and a test holds it.
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
