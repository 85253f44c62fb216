"""The inbox: a server that answers as Novu's events API does and shows each message as its person would get it.

It stands in for Novu in the demo and in the tests. What it answers was seen on a running Novu 2.0.0 (the recordings
under `tests/recordings/novu/`); what it cannot know from there (a 413, the v2 documents) follows Novu's documents and
its Python SDK.

Reading order: `model` and `answers` (words), `checks` (what a request must look like), `engine` (what happens to an
event), `idempotency`, `ratelimit` and `faults` (what stands before the engine), `documents` (JSON), `app` (HTTP),
`view` (the page).
"""
