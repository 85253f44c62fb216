#!/bin/sh
# Python 3.11.7 and 3.13.0 (asyncio)
#
# Behaviour: on the side of the server, `loop.start_tls` passes the first bytes of the client to `data_received` before it returns the
# transport that they came over. The documentation says that the protocol uses the new transport once it was returned.
#
# Why it matters: a protocol that sets itself up with the returned transport gets bytes while it has none. Whether it does depends on how
# the client's segments fall: with one that does not wait after the handshake, each time.
#
# Guess: nothing is delivered until the caller has the transport, as with `connection_made`, which comes before any data.
#
# Output seen:
#   data_received(b'hello')
#   start_tls returned
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q trustme==1.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import socket
import ssl

import trustme
ca = trustme.CA()
server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ca.issue_cert("localhost").configure_cert(server_context)
client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ca.configure_trust(client_context)
order = []


class Server(asyncio.Protocol):
    def connection_made(self, transport):
        transport.pause_reading()
        self.task = asyncio.create_task(self.secure(transport))

    async def secure(self, transport):
        await asyncio.get_running_loop().start_tls(transport, self, server_context, server_side=True)
        order.append("start_tls returned")

    def data_received(self, data):
        order.append(f"data_received({data!r})")


def client(port):
    """Sends the end of the handshake and the first data in one segment, as a client does that does not wait."""
    plain = socket.create_connection(("127.0.0.1", port))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            incoming.write(plain.recv(65536))
    tls.write(b"hello")
    plain.sendall(outgoing.read())
    return plain


async def main():
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    plain = await asyncio.to_thread(client, server.sockets[0].getsockname()[1])
    while len(order) < 2:
        await asyncio.sleep(0.01)
    plain.close()
    server.close()


asyncio.run(main())
print(*order, sep="\n")
raise SystemExit(order[0] == "start_tls returned")
PYTHON
