"""`tocsin doctor`."""

import asyncio
import dataclasses
import json
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

from tocsin.app import build, logs
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration
from tocsin.cli.running import running
from tocsin.cli.tables import printable
from tocsin.config import Config
from tocsin.config.sections import LogSettings
from tocsin.doctor.examination import Parts, checks
from tocsin.doctor.findings import Check, Finding, Severity, examine
from tocsin.errors import ConfigError, Problem, TocsinError
from tocsin.settings import seconds
from tocsin.terminal import has_colours

T = TypeVar("T")
U = TypeVar("U")

_COLOURS = {Severity.OK: 32, Severity.SKIPPED: 90, Severity.WARNING: 33, Severity.ERROR: 31}
_PATIENCE = 30.0
_ORDER = ("configuration", "sources", "alerts", "channels", "ledger", "web", "log", "process")
_FEW = 3
"""Alerts with nothing wrong that are all shown."""
_WIDTH = max(map(len, Severity))


def command(chosen: Namespace) -> Exit:
    try:
        downtime = seconds(chosen.downtime)
    except PydanticCustomError as error:
        raise ConfigError([Problem(code="downtime", path="--downtime", message=error.message())]) from None
    config = configuration(chosen)
    # What goes wrong is a finding, and the output may be JSON.
    logs.configure(LogSettings(level="error"))
    found = asyncio.run(_examined(config, chosen, downtime))
    if chosen.json:
        print(json.dumps({"findings": [dataclasses.asdict(one) for one in found]}))
    else:
        _print(found)
    severities = {one.severity for one in found}
    if Severity.ERROR in severities:
        return Exit.FAILED
    return Exit.WARNINGS if Severity.WARNING in severities else Exit.OK


async def _examined(config: Config, chosen: Namespace, downtime: float) -> Sequence[Finding]:
    unusable: list[Problem] = []
    sources = _built(config.sources, build.make_source, unusable)
    channels = _built(config.channels, build.make_channel, unusable)
    parts = Parts(sources=sources, channels=channels, unusable=unusable)
    status = partial(_status, chosen)
    listed = checks(config, parts, downtime=downtime, status=status, version=version("tocsin"))
    try:
        return await examine([*listed], progress=_Progress(shown=sys.stderr.isatty() and not chosen.json))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels.values()), return_exceptions=True)


def _built(configured: Mapping[str, T], make: Callable[[T], U], unusable: list[Problem]) -> dict[str, U]:
    """Build what can be built. Of the rest, the problems are added to `unusable`."""
    built: dict[str, U] = {}
    for name, one in configured.items():
        try:
            built[name] = make(one)
        except ConfigError as error:
            unusable += error.problems
    return built


def _status(chosen: Namespace) -> Mapping[str, Any]:
    """Ask the running process. Raises TocsinError."""
    process = running(chosen)
    with process.get("/api/v1/status", timeout=_PATIENCE) as answer:
        try:
            found: Mapping[str, Any] = json.load(answer)
        except ValueError:
            found = {}
        if "scrapes" not in found:
            raise TocsinError(f"{answer.url}: not the status of a Tocsin of this version")
    with suppress(OSError):
        return {**found, "certificate_ends": process.certificate_ends()}
    return found


class _Progress:
    """One line on the terminal that names what is not checked yet."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown

    def __call__(self, left: Sequence[Check]) -> None:
        if not self._shown:
            return
        names = ", ".join(f"{one.name} of {one.place}" for one in left[:2])
        more = f" and {len(left) - 2} more" if len(left) > 2 else ""
        print(f"\r\x1b[K{f'waiting for {names}{more} ...'[:79] if left else ''}", end="", file=sys.stderr, flush=True)


def _titled(found: Sequence[Finding]) -> Iterator[tuple[str, Sequence[Finding]]]:
    """The findings by place. Of many alerts with nothing wrong, only the first is shown in full."""
    places: dict[str, list[Finding]] = {}
    for one in found:
        places.setdefault(one.place, []).append(one)
    fine = [
        place
        for place, some in places.items()
        if place.startswith("alerts.") and all(one.severity is Severity.OK for one in some)
    ]
    for place, some in sorted(places.items(), key=lambda one: _rank(one[0])):
        if len(fine) <= _FEW or place not in fine:
            yield place, some
        elif place == fine[0]:
            yield f"{place}, and {len(fine) - 1} more alerts like it", some


def _rank(place: str) -> int:
    """The rank of a place in the report."""
    section = place.partition(".")[0]
    return _ORDER.index(section) if section in _ORDER else len(_ORDER)


def _lines(text: str) -> list[str]:
    """A text as lines that fit the terminal; one line elsewhere."""
    if not sys.stdout.isatty():
        return [printable(text)]
    width = max(shutil.get_terminal_size().columns - _WIDTH - 4, 40)
    return textwrap.wrap(printable(text), width, break_long_words=False, break_on_hyphens=False)


def _print(found: Sequence[Finding]) -> None:
    """Print the findings by place, each with its fix below it."""
    coloured = has_colours(sys.stdout)
    for title, some in _titled(found):
        print(printable(title))
        for one in some:
            word = f"{one.severity:<{_WIDTH}}"
            word = f"\x1b[{_COLOURS[one.severity]}m{word}\x1b[0m" if coloured else word
            first, *others = [*_lines(f"{one.check}: {one.message}"), *(_lines(f"fix: {one.fix}") if one.fix else [])]
            print(f"  {word}  {first}")
            for line in others:
                print(f"  {'':<{_WIDTH}}  {line}")
    counts = {severity: sum(one.severity is severity for one in found) for severity in Severity}
    words = {Severity.ERROR: "error", Severity.WARNING: "warning"}
    bad = [f"{counts[one]} {word}{'' if counts[one] == 1 else 's'}" for one, word in words.items() if counts[one]]
    print(f"\n{', '.join(bad) or 'nothing found'}; {counts[Severity.SKIPPED]} not checked")
