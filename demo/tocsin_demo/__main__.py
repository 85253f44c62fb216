"""`tocsin-demo`: all of Tocsin on one machine, in one command."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

_EPILOG = """\
examples:
  tocsin-demo                                 until Ctrl-C
  tocsin-demo --seconds 30 | cat              half a minute, in plain lines
  tocsin-demo --seed 7                        other customers, spikes and bids
  tocsin-demo --no-prometheus                 without Prometheus and Alertmanager, even if they are installed

Starts an embedded PostgreSQL, a producer of made-up events, Tocsin, and an inbox that stands in for Novu; also
Prometheus and Alertmanager, where they are installed. Everything listens on 127.0.0.1, on the usual port or the next
free one, and leaves nothing behind.

exit status: 0 ended by Ctrl-C, by SIGTERM, with its terminal or after --seconds; 1 failed; 2 wrong usage;
130 interrupted a second time while ending
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    chosen = _parser().parse_args(argv)
    try:
        return _run(chosen)
    except KeyboardInterrupt:
        return 130


def _run(chosen: argparse.Namespace) -> int:
    # Imported late, so that --help is quick.
    import asyncio

    from tocsin_demo.stack.demo import Options, run
    from tocsin_demo.stack.errors import DemoError
    from tocsin_demo.stack.screen import OutputGoneError, Screen

    with suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a replaced stream may lack it
    screen = Screen(sys.stdout)
    try:
        asyncio.run(run(screen, Options(**vars(chosen))))
        screen.paragraph("Everything has ended, and nothing is left behind.")
    except DemoError as error:
        with suppress(OutputGoneError):
            screen.clear()
        print(f"tocsin-demo: {error}", file=sys.stderr)
        return 1
    except OutputGoneError:
        # The output that Python still buffers would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tocsin-demo",
        description="Run Tocsin and everything around it on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=_positive, metavar="N", help="end after N seconds (default: with Ctrl-C)")
    parser.add_argument(
        "--seed", type=int, default=1431, metavar="N", help="another seed, other events (default: 1431)"
    )
    parser.add_argument(
        "--no-prometheus", dest="prometheus", action="store_false", help="start neither Prometheus nor Alertmanager"
    )
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
