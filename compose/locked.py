"""Print the part of a lock file that some packages need: `python locked.py requirements.lock tocsin`.

The workspace has one lock, and an image needs only its part, with the same versions and hashes. After each package the
lock names those that need it (`# via`). Runs before anything is installed, so it uses the standard library only.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_VIA = re.compile(r"^    #(?: via)? +(?P<name>[a-z0-9][a-z0-9._-]*)")


def share(lock: str, wanted: Sequence[str]) -> str:
    """The entries of the packages `wanted` and of all their dependencies, in the lock's order.

    A package of the workspace has no entry itself, but its dependencies name it. Raises ValueError for an unknown name.
    """
    entries = dict(_entries(lock))
    came_by = {
        name: {found["name"] for line in lines if (found := _VIA.match(line))} for name, lines in entries.items()
    }
    known = set(entries).union(*came_by.values())
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"not in the lock: {', '.join(unknown)}")
    needed = set(wanted)
    while more := {name for name, parents in came_by.items() if parents & needed} - needed:
        needed |= more
    lines = (line for name in entries if name in needed for line in entries[name])
    return "".join(line + "\n" for line in lines if not _VIA.match(line) and line.strip() != "# via")


def _entries(lock: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each entry."""
    lines: list[str] = []
    for line in lock.splitlines():
        if (found := _NAME.match(line)) is not None:
            lines = [line]
            yield found[0], lines
        elif line.startswith(" "):
            lines.append(line)


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 2:
        print("usage: locked.py LOCK PACKAGE...", file=sys.stderr)
        return 2
    try:
        text = share(Path(arguments[0]).read_text(encoding="utf-8"), arguments[1:])
    except (OSError, ValueError) as error:
        print(f"locked.py: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
