"""Schedules in the manner of cron, which Tocsin does not have: the interval that is nearest, and the schedule in words.
Pure."""

import re
from collections.abc import Sequence

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_STEP = re.compile(r"\*/([0-9]+)")
_DURATION = re.compile(r"(?:([0-9.]+)h)?(?:([0-9.]+)m)?(?:([0-9.]+)s)?(?:([0-9]+)ms)?")


def nearest_interval(schedule: str) -> float:
    """Seconds between two runs of a schedule, a day at most: the shortest time between two where it varies."""
    fields = schedule.split()
    if schedule.startswith("@every "):
        return go_duration(schedule.removeprefix("@every ")) or _DAY
    if schedule.startswith("@"):
        return _HOUR if schedule == "@hourly" else _DAY
    if len(fields) != 5:
        return _DAY
    minute, hour = fields[:2]
    if minute == "*":
        return _MINUTE
    if step := _STEP.fullmatch(minute):
        return int(step[1]) * _MINUTE
    if "," in minute or "-" in minute:
        return _HOUR / max(1, minute.count(",") + 1)
    if hour == "*":
        return _HOUR
    if step := _STEP.fullmatch(hour):
        return int(step[1]) * _HOUR
    return _DAY / max(1, hour.count(",") + 1)


def weekdays(schedule: str, *, monday: int) -> str:
    """The weekdays of a schedule by name; empty where it has none. `monday`: its number, 1 in cron."""
    fields = schedule.split()
    if len(fields) != 5 or not re.search(r"[0-9]", fields[4]) or "/" in fields[4]:
        return ""
    return re.sub(r"[0-9]+", lambda found: _WEEKDAYS[(int(found[0]) - monday) % 7], fields[4])


def go_duration(text: object) -> float | None:
    """Seconds of a duration as Go writes it (`5m`, `1m30s`, `500ms`); None where it is not one."""
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * _HOUR + minutes * _MINUTE + seconds + milliseconds / 1000


def simple_seconds(text: object) -> float | None:
    """Seconds of an interval as query-exporter writes it (`90`, `90s`, `2m`, `1h`, `1d`); None where it is not one."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", str(text).strip())
    if match is None:
        return None
    return float(match[1]) * {"": 1.0, "s": 1.0, "m": _MINUTE, "h": _HOUR, "d": _DAY}[match[2]]


def texts(value: object) -> Sequence[str]:
    """A list of texts, or one text, as a list."""
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]
