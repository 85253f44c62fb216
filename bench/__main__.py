"""`python -m bench [PART ...]`: measure everything, or the parts named, and print one table."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable
from importlib import import_module
from typing import cast

from bench.harness import Figure, table

PARTS = (
    "startup",
    "exposition",
    "ingest",
    "ledgers",
    "latency",
    "takeover",
    "novu",
    "email",
    "kafka",
    "postgres_events",
    "rabbitmq",
    "webhook_rate",
    "scaling",
    "isolation",
)


def main() -> int:
    chosen = sys.argv[1:] or PARTS
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        print(f"no such part: {', '.join(unknown)}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    for name in chosen:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        measure = cast("Callable[[], Awaitable[Iterable[Figure]]]", import_module(f"bench.{name}").measure)
        figures += asyncio.run(measure())  # type: ignore[arg-type]
    print(table(figures))
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
