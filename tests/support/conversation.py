"""A command on a terminal of its own, to which a test answers."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SOON = 30.0


class Conversation:
    """What was said on the terminal so far: `text`."""

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int) -> None:
        self.text = ""
        self._process = process
        self._terminal = terminal
        self._seen = 0

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and answer it. Enter alone accepts the default."""
        self.until(question)
        os.write(self._terminal, text.encode() + b"\n")

    def interrupt(self, question: str) -> int:
        """Wait for a question, press Ctrl-C, and return the exit status. Python may miss a key that is pressed at the
        moment when it begins to wait, so it is pressed until a new line shows that it was noticed."""
        self.until(question)
        end = time.monotonic() + SOON
        while "\n" not in self.text[self._seen :]:
            assert time.monotonic() < end, self.text
            os.write(self._terminal, b"\x03")
            patience = time.monotonic() + 5.0
            while "\n" not in self.text[self._seen :] and self._more(patience):
                pass
        return self.ended()

    def until(self, words: str) -> None:
        """Wait for words after those that were waited for before, at the end of a prompt if it is one."""
        end = time.monotonic() + SOON
        while (found := self.text.find(words, self._seen)) < 0:
            assert self._more(end), f"no {words!r} after: {self.text[self._seen :]!r}"
        self._seen = found + len(words)

    def ended(self) -> int:
        """Wait for the end, and return the exit status."""
        end = time.monotonic() + SOON
        while self._more(end):
            pass
        return self._process.wait(SOON)

    def _more(self, end: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))
        try:
            data = os.read(self._terminal, 65536) if ready else b""
        except OSError:
            data = b""  # the other side is closed
        self.text += data.decode().replace("\r\n", "\n")
        return bool(data)


@contextmanager
def conversation(*arguments: str, cwd: Path, environ: Mapping[str, str] = {}) -> Iterator[Conversation]:
    """Run `tocsin` on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tocsin", *arguments]
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("PG", "TOCSIN", "DATABASE"))}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "dumb", "COLUMNS": "80", **environ},
        start_new_session=True,
        preexec_fn=_controls_terminal,  # noqa: PLW1509 - it takes no lock
    )
    os.close(theirs)
    try:
        yield Conversation(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _controls_terminal() -> None:
    """Make the terminal that of the process, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
