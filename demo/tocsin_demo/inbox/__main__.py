"""`tocsin-inbox`: the inbox as a command."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from tocsin_demo.inbox.app import serving
from tocsin_demo.inbox.inbox import Inbox, Settings

EXAMPLE = """\
example:
  tocsin-inbox --port 8925
  then open http://127.0.0.1:8925/ and send a message:
  curl -H 'Authorization: ApiKey demo' -H 'Content-Type: application/json' \\
    -d '{"name": "alert", "to": "ann", "payload": {"title": "Hello", "message": "It works."}}' \\
    http://127.0.0.1:8925/v1/events/trigger
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; 1 if the address cannot be taken."""
    parser = argparse.ArgumentParser(
        prog="tocsin-inbox",
        description="A server that answers as Novu's events API does, and shows each message as people get it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8925, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="refuse unknown workflows instead of creating them")
    parser.add_argument(
        "--no-idempotency", action="store_true", help="ignore Idempotency-Key, as a self-hosted Novu does"
    )
    arguments = parser.parse_args(argv)
    settings = Settings(
        api_key=os.environ.get("TOCSIN_INBOX_API_KEY") or None,
        idempotency=not arguments.no_idempotency,
        auto_workflows=not arguments.strict,
    )
    try:
        asyncio.run(_serve(settings, arguments.host, arguments.port))
    except (OSError, OverflowError) as error:
        where = f"{arguments.host}:{arguments.port}"
        print(f"tocsin-inbox: cannot listen on {where}: {error}. Choose another with --port.", file=sys.stderr)
        return 1
    return 0


async def _serve(settings: Settings, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving(Inbox(settings), host=host, port=port) as url:
        print(f"inbox: {url}/", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
