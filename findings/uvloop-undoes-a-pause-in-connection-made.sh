#!/bin/sh
# uvloop 0.23.0 with Python 3.11.7
#
# Behaviour: a transport that a server's protocol pauses in `connection_made` reads again right after it. asyncio's own loop, for which the
# protocol was written, begins to read after `connection_made`, too, but not if it was paused.
#
# Why it matters: a protocol pauses there to begin TLS itself with `loop.start_tls`. It gets the client's first handshake message as data if
# that arrives before `start_tls`, and the client waits for an answer until its timeout.
#
# Guess: uvloop replaces asyncio's loop without a change of the program, so a paused transport stays paused until `resume_reading`.
#
# Output seen:
#   asyncio: []
#   uvloop: [b'hello']
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uvloop==0.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio

import uvloop


async def received_while_paused():
    received = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()

        def data_received(self, data):
            received.append(data)

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    await asyncio.sleep(0.5)
    writer.close()
    server.close()
    return received


found = {}
for name, factory in {"asyncio": None, "uvloop": uvloop.new_event_loop}.items():
    with asyncio.Runner(loop_factory=factory) as runner:
        found[name] = runner.run(received_while_paused())
    print(f"{name}: {found[name]}")
raise SystemExit(found != {"asyncio": [], "uvloop": [b"hello"]})
PYTHON
