#!/bin/sh
# pamqp 4.0.1 (aio-pika 10, aiormq 7)
#
# Behaviour: a float in a table of headers is written with single precision, though AMQP 0-9-1 as RabbitMQ speaks it has doubles
# ("d") as well, and pamqp reads them. A date after 7 February 2106 is written in seconds and read as milliseconds.
# Nothing is raised or logged.
#
# Why it matters: `time.time()` in a header comes back up to a minute off, 0.1 is another number, and an expiry "never"
# (31 December 9999) comes back as a day in 1978.
#
# Guess: what is written is read back, or refused with an error, as it is for an integer beyond 64 bits.
#
# Output seen:
#   1795984123.25 -> 1795984128.0
#   0.1 -> 0.10000000149011612
#   9999-12-31 00:00:00+00:00 -> 1978-01-11 21:30:14.400000+00:00
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pamqp==4.0.1
"$folder/venv/bin/python" - <<'PYTHON'
from datetime import UTC, datetime

from pamqp import decode, encode

changed = []
for value in (1795984123.25, 0.1, datetime(9999, 12, 31, tzinfo=UTC)):
    _, table = decode.field_table(encode.field_table({"value": value}))
    print(value, "->", table["value"])
    changed.append(table["value"] != value)
raise SystemExit(not all(changed))
PYTHON
