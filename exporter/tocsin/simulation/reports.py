"""What became of tests, for people and for CI."""

import difflib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tocsin.simulation.comparing import Difference, Mismatch, Seen, moment
from tocsin.simulation.running import Failure, Result

_INDENT = "    "
_NOT_XML = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOST = 20
"""Differences of one comparison that are shown."""


def lines(result: Result) -> Iterator[str]:
    """Why a test failed, line by line."""
    for found in result.problems:
        place = str(found).removesuffix(found.message).removesuffix(": ")
        yield place or str(result.file)
        yield f"{_INDENT}{found.message}"
    for failure in result.failures:
        yield from _failure(result.file, failure)


def _failure(file: Path, failure: Failure) -> Iterator[str]:
    place = f"{file}:{failure.line}" if failure.line else str(file)
    at = "" if failure.at is None else f"at {moment(failure.at)}: "
    yield f"{place}: {at}{failure.what}"
    for one in failure.differences[:_MOST]:
        yield f"{_INDENT}{one.what}"
        yield f"{_INDENT}  expected  {one.expected or 'no such series'}"
        yield f"{_INDENT}  found     {one.found or 'no such series'}"
    for mismatch in failure.mismatches[:_MOST]:
        yield from (f"{_INDENT}{line}" for line in _mismatch(mismatch, failure))
    if (more := len(failure.differences) + len(failure.mismatches) - _MOST) > 0:
        yield f"{_INDENT}and {more} more"
    for note in failure.notes:
        yield f"{_INDENT}note: {note}"


def _mismatch(mismatch: Mismatch, failure: Failure) -> Iterator[str]:
    if mismatch.number is None:
        assert mismatch.seen is not None
        yield f"not expected: {mismatch.seen.title}"
        yield "  to expect it, write"
        yield from (f"  {line}" for line in _written(mismatch.seen))
        return
    number = f"expected {mismatch.number + 1} of {len(failure.expected)}"
    if mismatch.seen is None:
        expected = failure.expected[mismatch.number].model_dump(mode="json", exclude_unset=True, by_alias=True)
        yield f"{number} is missing"
        yield from (f"  {line}" for line in _yaml(expected))
        return
    yield f"{number} differs from {mismatch.seen.title}"
    for one in mismatch.differences:
        yield f"  {one.what}"
        yield from (f"    {line}" for line in _difference(one))


def _difference(one: Difference) -> Iterator[str]:
    expected, found = one.expected.splitlines() or ["nothing"], one.found.splitlines() or ["nothing"]
    if len(expected) == len(found) == 1:
        yield f"expected  {expected[0]}"
        yield f"found     {found[0]}"
        return
    lines_of_both = difflib.ndiff(expected, found)
    yield "- is expected, + is found"
    yield from (line.rstrip() for line in lines_of_both if not line.startswith("?"))


def _written(seen: Seen) -> list[str]:
    """A notification as a file of tests would expect it, without what differs each time."""
    attempt = seen.attempt
    entry: dict[str, Any] = {"kind": attempt.kind.value, "labels": dict(attempt.envelope["labels"])}
    shown = {name: part for name, part in attempt.request.items() if name in _TELLING}
    if shown.get("body") == attempt.envelope:
        entry["annotations"] = dict(attempt.envelope["annotations"])
        shown = {}
    entry["request"] = _without(shown, attempt.id)
    return _yaml([{name: part for name, part in entry.items() if part}])


_TELLING = ("body", "to", "subject", "text", "title", "payload", "topic", "value", "row", "line")
"""The parts of a request that tell most."""


def _without(value: Any, id_: str) -> Any:
    """A value without the entries that are an id."""
    if isinstance(value, Mapping):
        return {key: _without(one, id_) for key, one in value.items() if one != id_}
    return [_without(one, id_) for one in value] if isinstance(value, list) else value


def _yaml(value: object) -> list[str]:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=70).splitlines()


def summary(results: Sequence[Result], seconds: float) -> str:
    """How many tests passed and failed."""
    failed = sum(not one.passed for one in results)
    counts = [f"{len(results) - failed} passed"] + ([f"{failed} failed"] if failed else [])
    return f"{', '.join(counts)} in {seconds:.1f} s"


def junit(results: Sequence[Result]) -> bytes:
    """The results as JUnit's XML, one suite per file."""
    root = ET.Element("testsuites", {"name": "tocsin test", **_counts(results)})
    for file in dict.fromkeys(one.file for one in results):
        own = [one for one in results if one.file == file]
        suite = ET.SubElement(root, "testsuite", {"name": _allowed(str(file)), **_counts(own)})
        for one in own:
            named = {"name": _allowed(one.name), "classname": _allowed(str(file)), "time": f"{one.seconds:.3f}"}
            place = {"file": _allowed(str(file)), **({"line": str(one.line)} if one.line else {})}
            case = ET.SubElement(suite, "testcase", named | place)
            if not one.passed:
                text = _allowed("\n".join(lines(one)))
                first = ": ".join(line.strip() for line in text.split("\n")[: 2 if one.problems else 1])
                failure = ET.SubElement(case, "error" if one.problems else "failure", {"message": first})
                failure.text = text
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


def _counts(results: Sequence[Result]) -> dict[str, str]:
    return {
        "tests": str(len(results)),
        "failures": str(sum(bool(one.failures) for one in results)),
        "errors": str(sum(bool(one.problems) for one in results)),
        "time": f"{sum(one.seconds for one in results):.3f}",
    }


def _allowed(text: str) -> str:
    """Text without the characters that XML has none of."""
    return _NOT_XML.sub("\ufffd", text)
