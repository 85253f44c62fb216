"""The sandbox that templates run in: what names, calls and operators mean.

A name after a dot is a key: `row.items` is the column `items`, whatever methods a mapping has. A name that is called is
a method: `row.items()` gives the pairs, whatever columns there are.

NULL is nothing: it prints nothing, a loop over it has no turns, arithmetic with it is NULL, and no comparison of size
with it is true. A condition is strict about the last two, so that a `when` that depends on a NULL is an error, which
the caller reports.
"""

import functools
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

import jinja2
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import missing

from tocsin.templates import filters
from tocsin.templates.errors import TemplateCode

MAX_TEXT = 4 * 1024 * 1024
"""Characters that one rendering may have."""

_MAX_BITS = 13_000
"""Of a whole number that is a power. Python prints 4,300 digits at most."""

EACH = "turns of a loop"
PRINTED = "as printed"
METHOD = "method of"
ORDERED = "side of a comparison"
"""Filters that `template.py` puts into the syntax tree. No template can write these names, which have blanks."""


class FixedNames(dict[str, Any]):
    """A mapping whose keys are the same for all rows, as those of labels: a key that is not there never will be."""


class MissingError(jinja2.UndefinedError):
    """A name was looked up in vain in `obj`."""

    def __init__(self, obj: object, name: object) -> None:
        super().__init__()
        self.name = str(name)
        self.available = tuple(map(str, obj)) if isinstance(obj, Mapping) else ()
        if isinstance(obj, Mapping):
            fixed = isinstance(obj, FixedNames) and isinstance(name, str)
            self.code = TemplateCode.UNKNOWN_NAME if fixed else TemplateCode.UNKNOWN_KEY
        elif obj is missing:
            self.code = TemplateCode.UNSET_VARIABLE
        else:
            self.code = TemplateCode.NULL if obj is None else TemplateCode.UNKNOWN_ATTRIBUTE


class _Strict(jinja2.StrictUndefined):
    """Raises `MissingError` over any use, unless Jinja itself says why there is nothing."""

    def __init__(
        self, hint: str | None = None, obj: Any = missing, name: str | None = None, exc: Any = jinja2.UndefinedError
    ) -> None:
        def missing_error(_: str | None) -> MissingError:
            return MissingError(obj, name)

        super().__init__(hint, obj, name, exc if hint else missing_error)  # type: ignore[arg-type]


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the rules above. `strict`: for conditions."""

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

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _refuse_text(operator, left, right)
        _refuse_large(operator, left, right)
        if not self.strict and not isinstance(left, Undefined) and not isinstance(right, Undefined):
            if operator == "+" and isinstance(left, str) != isinstance(right, str):
                left, right = filters.word(left), filters.word(right)
            elif operator == "%" and isinstance(left, str):
                return filters.percent(left, right)
            if left is None or right is None:
                return None
        return super().call_binop(context, operator, left, right)

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
        EACH: _each,
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


_TEXT_NUMBER = "{} with a number that is text, as a numeric column is here; write row.total | float"
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?")


def _refuse_text(operator: str, left: Any, right: Any) -> None:
    """Raise TypeError for arithmetic with a number that is text: Python would join or repeat the text. Words may be
    joined, and a line may be made of dashes."""
    texts = [one for one in (left, right) if isinstance(one, str)]
    if not texts or (operator == "%" and isinstance(left, str)):
        return
    mixed = any(isinstance(one, int | float | Decimal) and not isinstance(one, bool) for one in (left, right))
    if all(map(_NUMBER.fullmatch, texts)) and (mixed or (len(texts) == 2 and any("." in text for text in texts))):
        raise TypeError(_TEXT_NUMBER.format(operator))
    if operator == "+" and mixed:
        raise TypeError("+ with text and a number; join them with ~")


def _refuse_large(operator: str, left: Any, right: Any) -> None:
    """Raise OverflowError for a number of a row that would make a text or a power which takes all memory or time."""
    if operator == "*":
        for repeated, times in ((left, right), (right, left)):
            if isinstance(repeated, str | list | tuple) and isinstance(times, int) and len(repeated) * times > MAX_TEXT:
                raise OverflowError(f"more than {MAX_TEXT:,} repetitions")
    if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_BITS:
        raise OverflowError("a power of more than 4,000 digits; write the base as a float, as in 2.0 ** row.n")


class _Null:
    """NULL as one side of a comparison of size, which is false whatever is on the other side."""

    def __lt__(self, other: object) -> bool:
        return False

    __le__ = __gt__ = __ge__ = __lt__


_NULL = _Null()


def _comparison(compare: Callable[[str, str], bool]) -> Callable[["_NumberText", object], bool]:
    def compared(self: "_NumberText", other: object) -> bool:
        if isinstance(other, int | float | Decimal) or (isinstance(other, _NumberText) and "." in self + other):
            raise TypeError(_TEXT_NUMBER.format("comparison"))
        return compare(str(self), str(other)) if isinstance(other, str) else NotImplemented

    return compared


class _NumberText(str):
    """A number that is text as one side of a comparison of size: as text, 9.50 is more than 12.50."""

    __slots__ = ()
    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)


def _ordered(value: object) -> object:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return _NumberText(value)
    return _NULL if value is None else value


def _null(*_: object, **__: object) -> None:
    return None


@jinja2.pass_environment
def _method(environment: Environment, obj: object, name: str) -> Any:
    return environment.method(obj, name)


def _each(items: Iterable[object] | None) -> Iterable[object]:
    return () if items is None else items
