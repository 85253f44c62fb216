"""The inbox: a server that answers as Novu's events API does and shows each message as its recipient would get it.

It replaces Novu in the demo and in the tests. Its answers are those of a running Novu 2.0.0 and 3.15.0, as recorded in
`tests/recordings/`, for the calls that Tocsin makes.

Reading order: `model` and `answers` (types), `checks` (of a request), `engine` and `worker` (what happens to an event),
`idempotency` and `faults` (before the engine), `gate` (a request's way), `app` (HTTP), `view` (the page).
"""
