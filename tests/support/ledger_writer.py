"""A process that commits to a ledger until it is killed, and says so on its output after each commit.

Each commit moves the frontier by one, saves the firing of that number, deletes the one before, notifies two channels:
so whatever is found later, half a commit would show.
"""

import asyncio
import sys
from pathlib import Path

from support.ledger import commit, firing, transition
from tocsin.ledger.sqlite import open_ledger
from tocsin.model import fingerprint


async def main(path: Path) -> None:
    ledger = open_ledger(path)
    number = 0
    while True:
        number += 1
        key = str(number)
        await ledger.commit(
            commit(
                [transition(key, at=number)],
                to=("hook", "mail"),
                frontier=number,
                saved=[firing(key, started_at=number)],
                gone=[fingerprint("late", [str(number - 1)])],
            )
        )
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
