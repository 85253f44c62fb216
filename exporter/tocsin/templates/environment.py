"""The sandbox that templates run in: what names, calls and operators mean, and how far one rendering may go.

A name after a dot is a key: `row.items` is the column `items`, whatever methods a mapping has. A name that is called is
a method: `row.items()` gives the pairs, whatever columns there are.

NULL is nothing: it prints nothing, a loop over it has no turns, arithmetic with it is NULL, and no comparison of size
with it is true. A condition is strict about the last two, so that a `when` that depends on a NULL is an error, which
the caller reports.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import jinja2
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from tocsin.templates import filters

MAX_STEPS = 20_000
"""Turns of loops plus calls of functions and macros in one rendering. Jinja's own limit bounds one `range`, not loops
in loops."""

MAX_TEXT = 4 * 1024 * 1024
"""Characters that one rendering, or one string on the way to it, may have."""

MAX_POWER = 300
"""The largest exponent of `**`, and the number of digits its base may have."""

LOOP = "turns of a loop"
CONCAT = "joined text"
PRINTED = "as printed"
METHOD = "method of"
ORDERED = "side of a comparison"
"""Filters that `template.py` puts into the syntax tree. No template can write these names, which have blanks."""

STEPS = "steps so far"
"""The variable that counts the steps of a rendering."""


class _Strict(jinja2.StrictUndefined):
    """Names what is missing and what there is instead."""

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if isinstance(self._undefined_obj, Mapping):
            present = ", ".join(map(str, self._undefined_obj)) or "nothing"
            return f"there is no {self._undefined_name!r} among {present}"
        if self._undefined_obj is None:
            return f"{self._undefined_name!r} of something that is NULL"
        return f"there is no {self._undefined_name!r}"


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the rules above. `strict`: for conditions."""

    # `+` and `~` can double a text in every turn of a loop, `*` and `**` fill the memory at once; the others for NULL.
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})
    strict = False

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The key of a mapping, never its method; of anything else, the attribute."""
        if isinstance(obj, Mapping):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As `getattr`, for `row['total']` and for filters that are given the name of an attribute."""
        if isinstance(obj, Mapping) and isinstance(argument, str):
            return self.getattr(obj, argument)
        return super().getitem(obj, argument)

    def method(self, obj: Any, name: str) -> Any:
        """What `obj.name(...)` calls: the method, where there is one. A method of NULL gives NULL."""
        if obj is None:
            return _null
        found = super().getattr(obj, name)
        return filters.text_method(name, found) if isinstance(obj, str) else found

    # No keyword argument of a call in a template can have the names of these parameters, as in the method this extends.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, PYI063
        _step(__context)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not self.strict and not isinstance(left, Undefined) and not isinstance(right, Undefined):
            if operator == "+" and isinstance(left, str) != isinstance(right, str):
                left, right = filters.word(left), filters.word(right)
            elif operator == "%" and isinstance(left, str):
                return bounded(filters.percent(left, right))
            if left is None or right is None:
                return None
        if operator == "**" and (abs(right) > MAX_POWER or abs(left) > 10**MAX_POWER):
            raise OverflowError(f"an exponent above {MAX_POWER}, or a base of more than {MAX_POWER} digits")
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | bytes | list | tuple) and len(sequence) * times > MAX_TEXT:
                    raise OverflowError(f"a repetition of more than {MAX_TEXT}")
        return bounded(super().call_binop(context, operator, left, right))

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        return None if arg is None and not self.strict else super().call_unop(context, operator, arg)


@functools.cache
def environment_of(form: Literal["text", "html", "url", "condition"]) -> Environment:
    """The environment of a form of text. Cached: it takes a while to make."""
    finalize = filters.quoted if form == "url" else filters.printed
    environment = Environment(undefined=_Strict, autoescape=form == "html", finalize=finalize)
    environment.strict = form == "condition"
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    environment.filters = filters.by_name() | {
        LOOP: _counted,
        CONCAT: bounded,
        PRINTED: filters.printed,
        METHOD: _method,
        ORDERED: _ordered,
    }
    if not environment.strict:
        environment.tests = environment.tests | {name: _false_of_null(name) for name in _NEED_A_VALUE}
    return environment


_NEED_A_VALUE = (
    *("even", "odd", "divisibleby", "in"),
    *("gt", "greaterthan", ">", "ge", ">=", "lt", "lessthan", "<", "le", "<="),
)
"""Tests that raise an error where one side is NULL."""


def _false_of_null(name: str) -> Any:
    test: Any = TESTS[name]

    def checked(*values: Any) -> bool:
        # `is in` asks whether NULL is among some values, which it can be.
        return not any(value is None for value in (values[1:] if name == "in" else values)) and test(*values)

    return checked


class _Null:
    """NULL as one side of a comparison of size, which is false whatever is on the other side."""

    def __lt__(self, other: object) -> bool:
        return False

    __le__ = __gt__ = __ge__ = __lt__


_NULL = _Null()


def _ordered(value: object) -> object:
    return _NULL if value is None else value


def _null(*_: object, **__: object) -> None:
    return None


@jinja2.pass_environment
def _method(environment: Environment, obj: object, name: str) -> Any:
    return environment.method(obj, name)


def _step(context: Context) -> None:
    steps = context.parent[STEPS]
    steps[0] += 1
    if steps[0] > MAX_STEPS:
        raise OverflowError(f"more than {MAX_STEPS} turns of loops and calls")


@jinja2.pass_context
def _counted(context: Context, items: Iterable[object] | None) -> Iterator[object]:
    for item in () if items is None else items:
        _step(context)
        yield item


def bounded(value: Any) -> Any:
    """The value. Raises OverflowError where it is too long."""
    if isinstance(value, str | bytes | list | tuple) and len(value) > MAX_TEXT:
        raise OverflowError(f"longer than {MAX_TEXT}")
    return value
