"""Alerts of a configuration over a recording: `feeds.py` delivers what was recorded, `dry.py` runs it in virtual time
and sends nothing, `sending.py` sends to the real channels."""
