"""Recordings of what sources delivered: `lines.py` has the format, `files.py` the compressed file, `redaction.py` what
is hidden in it. docs/record-and-replay.md describes the format."""
