"""Puts the SQL beside it into Materialize, and keeps it there: `setup.py` and `rule.py` are its commands.

Reading order: `script` (files to items), `plan` (items and catalog to steps; both pure), `trouble` (what an error
means), `server` (talks to Materialize), `apply` (carries steps out), `cli` and `rules`.
"""
