"""What was expected, compared with what happened. Pure."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tocsin.settings import duration_text
from tocsin.simulation.cases import Expected, ExpectedDeadLetter, ExpectedNotification
from tocsin.simulation.receivers import Attempt


class Difference(NamedTuple):
    """One thing that is not as expected."""

    what: str
    """Where: a series, or a part of a notification."""
    expected: str
    """Empty: nothing."""
    found: str
    """Empty: nothing."""


def moment(at: float) -> str:
    """A time since the start of the test, as a step has it."""
    text = duration_text(at)
    return "0s" if text == "0" else text


# Series.

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
NONE = "none"
"""The value of a gauge without series."""


class SeriesError(ValueError):
    """What is wrong with a series, for people."""


class Series(NamedTuple):
    """A name and labels."""

    name: str
    labels: frozenset[tuple[str, str]]

    def __str__(self) -> str:
        inner = ", ".join(f'{name}="{_escaped(value)}"' for name, value in sorted(self.labels))
        return f"{self.name}{{{inner}}}" if inner else self.name


def series(text: str) -> Series:
    """Read a series as Prometheus writes it, `name{label="value"}`. Raises SeriesError."""
    name = _NAME.match(text.strip())
    rest = "" if name is None else text.strip()[name.end() :].strip()
    if name is None or (rest and not (rest.startswith("{") and rest.endswith("}"))):
        raise SeriesError(f'{text!r} is not a series; write it as on /metrics: name{{label="value"}}')
    labels: dict[str, str] = {}
    inner, at = rest[1:-1].strip(), 0
    while at < len(inner):
        match = _LABEL.match(inner, at)
        if match is None:
            raise SeriesError(f'{text!r} is not a series: expected label="value" at {inner[at:]!r}')
        labels[match[1]] = re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), match[2])
        at = match.end()
    return Series(name[0], frozenset(labels.items()))


def values(page: str) -> dict[Series, float]:
    """The series on a page of metrics."""
    lines = (line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#"))
    return {series(name): float(value) for name, _, value in lines}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def same_number(expected: float, found: float, tolerance: float = 0.0) -> bool:
    """Whether two numbers are equal within a tolerance. NaN equals NaN."""
    if math.isnan(expected) or math.isnan(found):
        return math.isnan(expected) and math.isnan(found)
    return expected == found or abs(expected - found) <= tolerance


def wanted(value: float | str) -> float | None:
    """The expected value of a series; None: there is none. Raises SeriesError."""
    if value == NONE:
        return None
    try:
        return float(value)
    except ValueError:
        raise SeriesError(f"{value!r} is neither a number nor `none`") from None


def compared_series(
    expected: Mapping[str, float | str], found: Mapping[Series, float], tolerance: float
) -> list[Difference]:
    """Compare the series of the gauges that `expected` names. Raises SeriesError."""
    expected_values: dict[Series, float] = {}
    names: set[str] = set()
    for text, value in expected.items():
        one = series(text)
        names.add(one.name)
        if (number := wanted(value)) is not None:
            expected_values[one] = number
    there = {one: value for one, value in found.items() if one.name in names}
    differences = []
    for one in sorted(expected_values.keys() | there.keys(), key=str):
        a, b = expected_values.get(one), there.get(one)
        if a is None or b is None or not same_number(a, b, tolerance):
            differences.append(Difference(str(one), _number(a), _number(b)))
    return differences


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else {"nan": "NaN"}.get(str(value), str(value))


# Notifications.


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A notification that was accepted or given up."""

    attempt: Attempt
    """The one with which it ended."""
    reason: str = ""
    """Why it was given up."""

    @property
    def title(self) -> str:
        """What it is, in one line."""
        alert = Series(self.attempt.alert, frozenset(self.attempt.envelope["labels"].items()))
        return f"{self.attempt.kind} {alert} at {moment(self.attempt.at)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """An expected notification and the one that is most like it, or one of them alone."""

    number: int | None
    """The place of the expected one in the list; None: not expected."""
    seen: Seen | None
    differences: Sequence[Difference] = ()


def matched(
    expected: Sequence[Expected], seen: Sequence[Seen], ids: Mapping[str, str]
) -> tuple[dict[int, Seen], list[Mismatch]]:
    """Match notifications in any order. Returns the expected ones by their place, each with the one that it is, and
    what does not match. `ids`: name -> id."""
    found = [[list(differences(one, other, ids)) for other in seen] for one in expected]
    taken: dict[int, int] = {}  # place of the seen one -> place of the expected one

    def take(number: int, tried: set[int]) -> bool:
        for other in range(len(seen)):
            if found[number][other] or other in tried:
                continue
            tried.add(other)
            if other not in taken or take(taken[other], tried):
                taken[other] = number
                return True
        return False

    left = [number for number in range(len(expected)) if not take(number, set())]
    free = [other for other in range(len(seen)) if other not in taken]
    mismatches = []
    for number in left:
        # Alike is what has the fewest differences; what happened and to which row counts most.
        like = min(free, key=lambda other: _distance(found[number][other]), default=None)
        if like is None:
            mismatches.append(Mismatch(number=number, seen=None))
        else:
            free.remove(like)
            mismatches.append(Mismatch(number=number, seen=seen[like], differences=found[number][like]))
    mismatches += [Mismatch(number=None, seen=seen[other]) for other in free]
    return {number: seen[other] for other, number in taken.items()}, mismatches


def _distance(some: Sequence[Difference]) -> tuple[bool, int]:
    return any(one.what == "kind" or one.what.startswith("labels") for one in some), len(some)


def differences(expected: Expected, seen: Seen, ids: Mapping[str, str]) -> Iterator[Difference]:
    """What of a notification is not as expected."""
    attempt = seen.attempt
    for name, found in (("kind", attempt.kind.value), ("alert", attempt.alert)):
        given = getattr(expected, name)
        if given not in (None, found):
            yield Difference(name, given, found)
    if expected.at is not None and abs(expected.at - attempt.at) >= 0.0005:
        yield Difference("at", moment(expected.at), moment(attempt.at))
    envelope: Mapping[str, Any] = attempt.envelope
    yield from _parts("labels", expected.labels, envelope["labels"])
    yield from _parts("annotations", expected.annotations, envelope["annotations"])
    yield from _parts("envelope", expected.envelope, envelope)
    yield from _parts("request", expected.request, attempt.request)
    if isinstance(expected, ExpectedNotification):
        yield from _sent(expected, attempt, ids)
    if isinstance(expected, ExpectedDeadLetter) and expected.reason not in (None, seen.reason):
        yield Difference("reason", str(expected.reason), seen.reason)


def _sent(expected: ExpectedNotification, attempt: Attempt, ids: Mapping[str, str]) -> Iterator[Difference]:
    if expected.recipients is not None:
        found = recipients(attempt.request)
        if sorted(expected.recipients) != sorted(found):
            yield Difference("recipients", ", ".join(sorted(expected.recipients)), ", ".join(sorted(found)))
    if expected.attempts not in (None, attempt.number):
        yield Difference("attempts", str(expected.attempts), str(attempt.number))
    if expected.same_id_as is not None and (known := ids.get(expected.same_id_as, "")) != attempt.id:
        yield Difference("same_id_as", known or f"that of {expected.same_id_as}, which is missing", attempt.id)


def recipients(request: Mapping[str, Any]) -> list[str]:
    """Everyone that a request goes to, as far as its channel has recipients."""
    found: list[str] = []
    for field in ("to", "cc", "bcc"):
        listed = request.get(field, [])
        found += [
            str(one.get("topicKey", one)) if isinstance(one, Mapping) else str(one)
            for one in (listed if isinstance(listed, list) else [listed])
        ]
    return found


def _parts(place: str, expected: Any, found: Any) -> Iterator[Difference]:
    """Compare what is expected: of a mapping only the keys that are expected."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key, value in expected.items():
            if key not in found:
                yield Difference(f"{place}.{key}", _shown(value), "")
            else:
                yield from _parts(f"{place}.{key}", value, found[key])
    elif isinstance(expected, list) and isinstance(found, list | tuple) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _parts(f"{place}[{number}]", one, other)
    elif not _same(expected, found):
        shown = _shown(expected), _shown(found)
        if shown[0] == shown[1]:  # a number and a text
            shown = _json(expected), _json(found)
        yield Difference(place, *shown)


def _same(expected: object, found: object) -> bool:
    if isinstance(expected, bool) or isinstance(found, bool):
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return same_number(expected, found)
    if isinstance(expected, float) and not math.isfinite(expected):
        return found == {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(expected)]
    return expected == found


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value else _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
