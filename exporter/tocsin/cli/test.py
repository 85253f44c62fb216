"""`tocsin test`."""

import logging
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import structlog

from tocsin.app import logs
from tocsin.cli import Exit
from tocsin.cli.tables import printable
from tocsin.config.sections import LogSettings
from tocsin.errors import ConfigError, TocsinError
from tocsin.simulation.cases import read
from tocsin.simulation.reports import junit, lines, summary
from tocsin.simulation.running import Result, configuration, run_file
from tocsin.terminal import has_colours

_EVERY = 0.5
"""Seconds between two checks whether a file has changed, with --watch."""


def command(chosen: Namespace) -> Exit:
    _configure_log()
    files = [Path(file) for file in chosen.files]
    if not chosen.watch:
        return _run(files, chosen)
    while True:
        if sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        before = _stamps(_dependencies(files))
        _run(files, chosen)
        print("waiting for a change; Ctrl-C ends", flush=True)
        while _stamps(before) == before:
            time.sleep(_EVERY)


def _configure_log() -> None:
    """Log nothing, unless TOCSIN_DEBUG is set: the log would repeat each outage that a test is about."""
    if os.environ.get("TOCSIN_DEBUG"):
        logs.configure(LogSettings(level="debug"))
        return

    def drop(*_: object) -> NoReturn:
        raise structlog.DropEvent

    structlog.configure(processors=[drop])
    logging.disable()


def _run(files: Sequence[Path], chosen: Namespace) -> Exit:
    began, results = time.perf_counter(), list[Result]()
    paint = _colours()
    for file in files:
        found = list[Result]()
        for result in run_file(file, chosen.filter):
            if not found:
                print(file)
            found.append(result)
            _show(result, paint)
        results += found
    if chosen.junit:
        _write(Path(chosen.junit), results)
    if not results:
        print(f"no test has {chosen.filter!r} in its name", file=sys.stderr)
        return Exit.FAILED
    print(summary(results, time.perf_counter() - began))
    return Exit.OK if all(one.passed for one in results) else Exit.FAILED


def _write(path: Path, results: Sequence[Result]) -> None:
    try:
        path.write_bytes(junit(results))
    except OSError as error:
        raise TocsinError(f"{path}: the report cannot be written: {(error.strerror or str(error)).lower()}") from None


def _show(result: Result, paint: Callable[[str, str], str]) -> None:
    word = paint("passed", "32") if result.passed else paint("FAILED", "31")
    print(f"  {word}  {printable(result.name)}")
    for line in lines(result):
        print(f"    {printable(line)}")
    sys.stdout.flush()


def _colours() -> Callable[[str, str], str]:
    if has_colours(sys.stdout):
        return lambda text, code: f"\033[{code}m{text}\033[0m"
    return lambda text, _: text


def _dependencies(files: Iterable[Path]) -> set[Path]:
    """The files, those of their configurations, and those in which something is wrong."""
    found = {*files}
    for file in files:
        try:
            tests = read(file)
            found.add(tests.config)
            found |= {Path(name) for name, _ in configuration(tests).places.lines.values()}
        except ConfigError as error:
            found |= {Path(one.file) for one in error.problems if one.file}
    return found


def _stamps(files: Iterable[Path]) -> dict[Path, int]:
    """When files were changed."""
    return {file: _stamp(file) for file in files}


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
