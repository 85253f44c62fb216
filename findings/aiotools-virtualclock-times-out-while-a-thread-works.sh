#!/bin/sh
# aiotools 2.2.4, Python 3.11.7
#
# Behaviour: with `aiotools.VirtualClock`, a call of `asyncio.to_thread` that takes 0.2 s under `asyncio.timeout(60)` ends in TimeoutError at once:
# while the thread works, the clock jumps to the next timer, which is the timeout.
#
# Why it matters: code with a timeout around work in a thread (a database, a file, a DNS lookup) always fails under the clock, or, where the
# timeout is repeated, seems to wait for a server that answers.
#
# Guess: time jumps when the loop has nothing to do, and a thread that the loop itself has started is something to do.
#
# Output seen:
#   TimeoutError after 60.0 virtual seconds, 0.0 real ones
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q aiotools==2.2.4 typing_extensions
"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys
import time

import aiotools


async def main():
    with aiotools.VirtualClock().patch_loop():
        loop = asyncio.get_running_loop()
        virtual, real = loop.time(), time.monotonic()
        try:
            async with asyncio.timeout(60):
                await asyncio.to_thread(time.sleep, 0.2)
        except TimeoutError:
            print(f"TimeoutError after {loop.time() - virtual:.1f} virtual seconds, {time.monotonic() - real:.1f} real ones")
            return 0
        return 1


sys.exit(asyncio.run(main()))
PYTHON
