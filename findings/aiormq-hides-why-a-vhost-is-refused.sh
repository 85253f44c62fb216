#!/bin/sh
# aiormq 7.2.4 (pamqp 4.0.1); aiormq 6.9.4 had the server's frame in the arguments of the error
#
# Behaviour: a server that closes the connection instead of opening a virtual host (there is none of that name, or the user
# has no access to it) says why in Connection.Close. The error is an InvalidFrameError that names the class of the frame
# and its address in memory; the text of the server is in neither its arguments nor its causes, and is not logged.
#
# Why it matters: "not found" and "access refused" look alike, and as a fault of the protocol. An operator cannot see what
# to fix, and a program that retries one and gives up at the other cannot tell them apart.
#
# Guess: ConnectionNotAllowed with the text of the server, as after the connection is open.
#
# Output seen:
#   InvalidFrameError: Expected one of ['Connection.OpenOk'], got <Connection.Close object at 0x...>
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q aiormq==7.2.4 pamqp==4.0.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import contextlib

import aiormq
from aiormq.connection import FrameReceiver
from pamqp import frame
from pamqp.commands import Connection

REFUSED = "NOT_ALLOWED - vhost nowhere not found"
ANSWERS = {
    "Connection.StartOk": Connection.Tune(2047, 131072, 60),
    "Connection.Open": Connection.Close(530, REFUSED, 10, 40),
}


async def server(reader, writer):
    await reader.readexactly(8)
    properties = {"capabilities": {"publisher_confirms": True}}
    start = Connection.Start(server_properties=properties, mechanisms="PLAIN", locales="en_US")
    writer.write(frame.marshal(start, 0))
    with contextlib.suppress(aiormq.exceptions.AMQPConnectionError):
        async for _, channel, one in FrameReceiver(reader):
            if one.name in ANSWERS:
                writer.write(frame.marshal(ANSWERS[one.name], channel))


async def main():
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/nowhere")
    except aiormq.exceptions.AMQPError as error:
        return error
    return None


error = asyncio.run(main())
print(f"{type(error).__name__}: {error}")
texts, cause = [], error
while cause is not None:
    texts.append(repr(cause) + repr(cause.args))
    cause = cause.__cause__ or cause.__context__
raise SystemExit(error is None or any(REFUSED in text for text in texts))
PYTHON
