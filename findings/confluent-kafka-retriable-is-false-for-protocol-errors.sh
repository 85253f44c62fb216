#!/bin/sh
# confluent-kafka 2.16.1 (librdkafka 2.16.0)
#
# Behaviour: KafkaError.retriable() is false for an error made of a code of the protocol, also for "Leader not available"
# (5), "Not leader for partition" (6), "Coordinator load in progress" (14) and "Not coordinator" (16), which the protocol
# calls retriable. (Errors that a broker caused were not run here; get_watermark_offsets() raises 6 right after a topic
# with several partitions was created.)
#
# Why it matters: a test that raises such an error by hand, and code that asks `if error.retriable()`, treat it as final.
# A program needs its own list of codes.
#
# Guess: the flag follows from the code, as it does in the Java client.
#
# Output seen:
#   5 LEADER_NOT_AVAILABLE retriable() = False
#   6 NOT_LEADER_FOR_PARTITION retriable() = False
#   14 COORDINATOR_LOAD_IN_PROGRESS retriable() = False
#   16 NOT_COORDINATOR retriable() = False
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q confluent-kafka==2.16.1
"$folder/venv/bin/python" - <<'PYTHON'
from confluent_kafka import KafkaError

errors = [KafkaError(code) for code in (5, 6, 14, 16)]
for error in errors:
    print(error.code(), error.name(), "retriable() =", error.retriable())
raise SystemExit(any(error.retriable() for error in errors))
PYTHON
