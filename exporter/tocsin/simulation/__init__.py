"""Alerts of a real configuration over a script, in virtual time: hours take milliseconds, and nothing is sent.

Pipelines, firing sets, ledger (a temporary file), dispatchers and templates are those of `tocsin run`. Sources deliver
what the script says, and receivers answer as it says. `engine.py` is the API; `tocsin test` and `tocsin replay` use it.
"""
