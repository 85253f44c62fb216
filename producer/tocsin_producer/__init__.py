"""Seeded demo events: steady load, spikes, recoveries."""
