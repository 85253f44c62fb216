#!/bin/sh
# aiormq 7.2.4 (pamqp 4.0.1)
#
# Behaviour: with publisher confirms and `mandatory`, a message that the server returns is found by its `message_id`. Of two
# messages under way with one id, both returned, the second `basic_publish` raises PublishError, and the first one
# reports success. The server here answers in the order of RabbitMQ 3.10: return, ack, return, ack.
#
# Why it matters: the id is the publisher's own, and a message that is published again has it twice. A program that removes
# the original when the copy is confirmed loses it, although it asked for `mandatory`.
#
# Guess: confirmations are counted per channel, so a return is matched with the publish that it belongs to.
#
# Output seen:
#   first: Basic.Ack
#   second: PublishError
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
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Confirm, Connection
from pamqp.header import ContentHeader

ANSWERS = {
    "Connection.StartOk": Connection.Tune(2047, 131072, 60),
    "Connection.Open": Connection.OpenOk(),
    "Channel.Open": Channel.OpenOk(),
    "Confirm.Select": Confirm.SelectOk(),
    "Channel.Close": Channel.CloseOk(),
    "Connection.Close": Connection.CloseOk(),
}


async def server(reader, writer):
    def send(channel, *frames):
        writer.write(b"".join(frame.marshal(one, channel) for one in frames))

    await reader.readexactly(8)
    properties = {"capabilities": {"publisher_confirms": True}}
    send(0, Connection.Start(server_properties=properties, mechanisms="PLAIN", locales="en_US"))
    published = []
    with contextlib.suppress(aiormq.exceptions.AMQPConnectionError):
        async for _, channel, one in FrameReceiver(reader):
            if isinstance(one, ContentHeader):
                published.append(one)
            if one.name in ANSWERS:
                send(channel, ANSWERS[one.name])
            if isinstance(one, ContentBody) and len(published) == 2:
                for number, header in enumerate(published, 1):
                    send(channel, Basic.Return(312, "NO_ROUTE", "", "nowhere"), header, ContentBody(b"x"), Basic.Ack(number))
    writer.close()


async def main():
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
    channel = await connection.channel()
    publish = [
        channel.basic_publish(
            b"x", routing_key="nowhere", mandatory=True, properties=Basic.Properties(message_id="order-7")
        )
        for _ in range(2)
    ]
    results = await asyncio.gather(*publish, return_exceptions=True)
    await connection.close()
    return [result.name if isinstance(result, Basic.Ack) else type(result).__name__ for result in results]


first, second = asyncio.run(main())
print("first:", first)
print("second:", second)
raise SystemExit((first, second) != ("Basic.Ack", "PublishError"))
PYTHON
