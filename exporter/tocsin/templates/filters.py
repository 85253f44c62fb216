"""How values print, and the filters of templates.

Jinja's own filters work on Python values: of NULL they print `None` or raise an error, of booleans they print `True`.
Here a filter sees what the value prints, so that `row.owner | upper` and `row.owner` agree.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from jinja2 import pass_eval_context
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Undefined

from tocsin.values import jsonable

_REMOVED = ("random", "pprint", "xmlattr")
"""Jinja's filters that templates do not have: a repeat must be byte-identical, and the others are of no use here."""

_OF_TEXT = (
    "capitalize center e escape forceescape indent lower safe string striptags title trim truncate upper urlize "
    "wordcount wordwrap"
)
_OF_LISTS = "batch groupby list map reject rejectattr select selectattr slice sort sum unique"
_OF_NUMBERS = "abs filesizeformat humanize humanize_duration humanize_percentage round"


class NothingError(ValueError):
    """An expression in the template of a URL prints nothing."""


def by_name() -> dict[str, Callable[..., Any]]:
    """Return every filter of templates by name, with NULL and booleans as this module describes them."""
    filters = {name: call for name, call in FILTERS.items() if name not in _REMOVED} | {
        "json": json_text,
        "tojson": json_text,
        "humanize": humanize,
        "humanize_percentage": humanize_percentage,
        "humanize_duration": duration,
    }
    # Names, how they see their value, and whether NULL stays NULL.
    kinds: list[tuple[str, Callable[[Any], Any], bool]] = [
        (_OF_TEXT, text, False),
        ("count length reverse", _list_or_text, False),
        ("first last", _or_null(_list_or_text), True),
        (_OF_LISTS, _list, False),
        ("max min", _or_null(_list), True),
        ("dictsort items", lambda value: {} if value is None else value, False),
        (_OF_NUMBERS, lambda value: value, True),
    ]
    for names, seen, keeps_null in kinds:
        for name in names.split():
            filters[name] = _seeing(filters[name], seen, keeps_null=keeps_null)
    filters["format"] = _format
    filters["join"] = _join
    filters["replace"] = _replace(filters["replace"])
    filters["urlencode"] = _urlencode(filters["urlencode"])
    return filters


def _seeing(call: Any, seen: Callable[[Any], Any], *, keeps_null: bool) -> Callable[..., Any]:
    """Wrap a filter, which gets its value as `seen` returns it. `keeps_null`: NULL is returned as it is."""
    place = 1 if hasattr(call, "jinja_pass_arg") else 0

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value = None if args[place] is None and keeps_null else seen(args[place])
        if value is None and keeps_null:
            return None
        return call(*args[:place], value, *args[place + 1 :], **kwargs)

    return wrapped


def _or_null(seen: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap `seen`: what is empty has no first and no largest part, which is NULL."""

    def seen_or_null(value: Any) -> Any:
        found = seen(value)
        return found if isinstance(found, Undefined | Iterator) or len(found) else None

    return seen_or_null


def _list_or_text(value: Any) -> Any:
    return value if isinstance(value, Iterable | Undefined) else text(value)


def _list(value: Any) -> Any:
    if value is None:
        return ()
    return value if isinstance(value, Iterable | Undefined) else (value,)


def _format(value: Any, *args: Any, **kwargs: Any) -> Any:
    if args and kwargs:
        raise TypeError("format takes values by place or by name, not both")
    return percent(text(value), kwargs or args)


def percent(pattern: str, values: Any) -> str:
    """Return `pattern % values`, where NULL prints nothing and `%s` of a boolean its word."""
    given = values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple) else (values,)
    if not any(value is None or isinstance(value, bool) for value in given):
        plain: str = pattern % values
        return plain
    by_place = iter(given)

    def filled(match: re.Match[str]) -> str:
        if match["type"] == "%":
            return "%"
        value = values[match["key"]] if match["key"] is not None else next(by_place, _MISSING)
        if value is _MISSING:
            raise TypeError("not enough arguments for format string")
        kind = match["type"]
        if value is None or (isinstance(value, bool) and kind in "rsa"):
            value, kind = printed(value), "s"
        return str(type(pattern)(f"%{match['flags']}{match['size']}{kind}") % (value,))

    return type(pattern)(_PERCENT.sub(filled, pattern))


_PERCENT = re.compile(
    r"%(?:\((?P<key>[^)]*)\))?(?P<flags>[-#0 +]*)(?P<size>\d*(?:\.\d+)?)[hlL]?(?P<type>[A-Za-z%])", re.ASCII
)
_MISSING = object()


@pass_eval_context
def _join(context: Any, value: Any, d: Any = "", attribute: int | str | None = None) -> Any:
    parts = _list(value)
    if attribute is not None:
        parts = map(make_attrgetter(context.environment, attribute), parts)
    return FILTERS["join"](context, [printed(part) for part in parts], printed(d))


def _replace(call: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(call)
    def wrapped(context: Any, value: Any, old: Any, new: Any, count: int | None = None) -> str:
        return call(context, text(value), text(old), text(new), count)

    return wrapped


def _urlencode(call: Callable[..., str]) -> Callable[..., str]:
    def wrapped(value: Any) -> str:
        if isinstance(value, Mapping):
            return call({key: printed(item) for key, item in value.items()})
        if isinstance(value, Iterable) and not isinstance(value, str):
            return call([tuple(map(printed, item)) for item in value])
        return call(text(value))

    return wrapped


def text_method(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method of a text, so that NULL and booleans among its values are as they print."""
    if name == "join":
        return lambda parts: method([word(part) for part in parts])
    if name == "replace":
        return lambda *args: method(*map(word, args[:2]), *args[2:])
    if name == "format":
        return lambda *args, **kwargs: method(*map(_cell, args), **{key: _cell(one) for key, one in kwargs.items()})
    if name == "format_map":
        return lambda values: method({key: _cell(value) for key, value in values.items()})
    return method


class _Cell(str):
    """NULL or a boolean among the values of `str.format`."""

    __slots__ = ("value",)
    value: bool | None

    def __format__(self, spec: str) -> str:
        try:
            return format(str(self), spec)
        except ValueError:  # `.2f` of NULL, `d` of a boolean
            return "" if self.value is None else format(self.value, spec)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        cell = _Cell(printed(value))
        cell.value = value
        return cell
    return value


# How values print.


def printed(value: object) -> object:
    """Return a value as the envelope shows it. A text and a number are returned as they are."""
    if value is None:
        return ""
    if isinstance(value, str | int | float | Undefined) and not isinstance(value, bool):
        return value
    plain = jsonable(value)
    return plain if isinstance(plain, str) else json_text(plain)


def text(value: object) -> str:
    """Return what a value prints. Text that is marked as HTML stays so. Raises UndefinedError for an unknown name."""
    shown = printed(value)
    return shown if isinstance(shown, str) else str(shown)


def word(value: Any) -> Any:
    """Return NULL and booleans as they print, any other value as it is."""
    return printed(value) if value is None or isinstance(value, bool) else value


def quoted(value: object) -> object:
    """Return a value as one part of a URL, where a line break becomes a blank: services put parts into headers. Raises
    NothingError where it prints nothing."""
    shown = " ".join(text(value).splitlines())
    if not shown:
        raise NothingError("an expression prints nothing")
    return quote(shown, safe="")


def json_text(value: object) -> str:
    """Return the value as JSON, as in the envelope."""
    if isinstance(value, Undefined):
        str(value)
    return json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False)


def humanize(value: Any) -> str:
    """Write a number with four significant digits and an SI prefix: `12.35k`, `1.5m`."""
    amount = float(value)
    if not math.isfinite(amount) or amount == 0:
        return f"{amount:.4g}"
    power = min(max(math.floor(math.log10(abs(amount)) / 3), -8), 8)
    return f"{amount / 1000.0**power:.4g}{'yzafpnum kMGTPEZY'[power + 8].strip()}"


def humanize_percentage(value: Any) -> str:
    """Write a ratio as per cent, with four significant digits: `12.5%`."""
    return f"{float(value) * 100:.4g}%"


def duration(value: Any) -> str:
    """Write seconds (or a difference of times) as `1d 2h 3m 4s`, below a second as `250ms`."""
    plain = jsonable(value)
    amount = float(plain)
    if not math.isfinite(amount):
        return f"{amount:g}"
    sign, amount = "-" if amount < 0 else "", abs(amount)
    if amount < 1:
        return f"{sign}{amount * 1000:.4g}ms" if amount else "0s"
    minutes, seconds = divmod(round(amount), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s"))
    return sign + " ".join(f"{count}{unit}" for count, unit in parts if count)
