"""The inbox: a server that answers as Novu's events API does and shows each message as its recipient would get it.

It replaces Novu in the demo and in the tests. To the calls that Tocsin makes, it answers as a running Novu 2.0.0 and
3.15.0 did, as recorded in `tests/recordings/`: status, headers, what a client reads of the body, and the effects.

Reading order: `model` and `answers` (types), `engine` and `worker` (what happens to an event), `faults` and `gate` (a
request's way to the engine), `app` (HTTP), `view` (the page).
"""
