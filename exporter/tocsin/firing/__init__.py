"""The firing set of one alert: a multiset of rows per key, and the transitions that updates cause. No I/O; time is an
argument.

All times are source time in milliseconds. The updates at timestamp t are complete once the frontier has passed t. So a
timer due at d (`for`, `keep_firing_for`, `repeat_interval`) is decided when no update at or before d can follow: before
the first update later than d, or when the frontier passes d. The same history gives the same transitions, however it is
cut into batches.
"""

from tocsin.firing.firing_set import FiringSet
from tocsin.firing.types import Firing, Key, Outcome, Phase, Rule

__all__ = ["Firing", "FiringSet", "Key", "Outcome", "Phase", "Rule"]
