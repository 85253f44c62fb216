"""Text and JSON made from a notification, in Jinja2.

Templates are written by whoever writes the configuration, their variables come from rows. So the sandbox is there
against accidents: a template reaches no Python internals, changes nothing it is given, and cannot run away (see
`MAX_STEPS`, `MAX_TEXT`). An unknown variable is an error, never an empty string.

Values print as they stand in the envelope: NULL as nothing, `true` and `false`, times in ISO 8601, lists and objects
as JSON. Filters beyond Jinja's own: `json`, `humanize`, `humanize_percentage`, `humanize_duration`.
"""

import functools
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tocsin.errors import TocsinError
from tocsin.values import jsonable

VARIABLES = frozenset(
    {
        "id",
        "alert",
        "status",
        "fingerprint",
        "started_at",
        "at",
        "labels",
        "value",
        "row",
        "previous",
        "annotations",
        "merged",
    }
)
"""What a template may name: the keys of the envelope; `merged` is a list of at least the one."""

MAX_STEPS = 20_000
"""Turns of loops plus calls of functions and macros in one rendering. Jinja's own limit bounds one `range`, not loops
in loops."""

MAX_TEXT = 4 * 1024 * 1024
"""Characters that one rendering, or one string on the way to it, may have."""

MAX_POWER = 300
"""The largest exponent of `**`, and the number of digits its base may have."""


class TemplateError(TocsinError, ValueError):
    """A template that does not compile or render; the text names the place and what is wrong with it."""


class NothingPrintedError(TemplateError):
    """An expression in a template of an URL that prints nothing: there is nobody to whom it could lead."""


class _NothingError(ValueError):
    """The same, inside of Jinja."""


class Template:
    """A text with `{{ }}` in it, compiled once.

    `place` is what errors call it (`alerts.late.annotations.summary`). `form` is what the text is part of. What a
    template of HTML prints is escaped, but for what passes the filter `safe`; what one of an URL prints is quoted, so
    that it stays one part of it, and must not be empty. Raises TemplateError for a syntax error, and for a variable
    that is not in `known`.
    """

    def __init__(
        self,
        source: str,
        *,
        place: str = "template",
        known: Collection[str] = VARIABLES,
        form: Literal["text", "html", "url"] = "text",
    ) -> None:
        self.source = source
        self._place = place
        self.constant = not any(mark in source for mark in ("{{", "{%", "{#"))
        if not self.constant:
            environment = _environment(form)
            self._compiled = _from(_parse(source, place, known, environment), place, environment)

    def __repr__(self) -> str:
        return f"Template({self.source!r})"

    def render(self, variables: Mapping[str, object]) -> str:
        """The text. Raises TemplateError, whatever went wrong."""
        if self.constant:
            return self.source
        chunks: list[str] = []
        room = MAX_TEXT
        try:
            for chunk in self._compiled.root_render_func(_context(self._compiled, variables)):
                room -= len(chunk)
                if room < 0:
                    raise OverflowError(f"the text is longer than {MAX_TEXT} characters")
                chunks.append(chunk)
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            raise _failure(self._compiled, self._place, error) from None
        return "".join(chunks)


class Structure:
    """Nested mappings and lists whose strings are templates, for JSON bodies. Keys are literal, other values are as
    they stand.

    A string that is exactly one `{{ expression }}` becomes the expression's value and not its text: `"{{ value }}"`
    is a number in the JSON, `"{{ row }}"` an object. A numeric column is a string there as in the envelope; `{{
    row.total | float }}` is a number.
    """

    def __init__(self, shape: object, *, place: str = "template", known: Collection[str] = VARIABLES) -> None:
        self._render = _structure(shape, place, known)

    def render(self, variables: Mapping[str, object]) -> Any:
        """The value, ready for JSON. Raises TemplateError, whatever went wrong."""
        return self._render(variables)


class Condition:
    """An expression that is true or false of a row, as in `row.severity == "page"`. Errors: see `Template`."""

    def __init__(self, source: str, *, place: str = "condition", known: Collection[str] = VARIABLES) -> None:
        self.source = source
        try:
            render = _expression("{{ " + source + " }}", place, known)
        except TemplateError as error:
            # The braces are ours: whoever wrote the expression knows nothing of a "print statement".
            raise TemplateError(str(error).replace("end of print statement", "the end")) from None
        if render is None:
            raise TemplateError(f"{place}: write one expression, such as row.severity == 'page'")
        self._render = render

    def __repr__(self) -> str:
        return f"Condition({self.source!r})"

    def holds(self, variables: Mapping[str, object]) -> bool:
        """Whether it is true, as Jinja and Python understand it. Raises TemplateError, whatever went wrong."""
        return bool(self._render(variables))


_Renderer: TypeAlias = Callable[[Mapping[str, object]], Any]


def _structure(shape: object, place: str, known: Collection[str]) -> _Renderer:
    if isinstance(shape, Mapping):
        fields = {str(key): _structure(item, f"{place}.{key}", known) for key, item in shape.items()}
        return lambda variables: {key: render(variables) for key, render in fields.items()}
    if isinstance(shape, list | tuple):
        items = [_structure(item, f"{place}[{index}]", known) for index, item in enumerate(shape)]
        return lambda variables: [render(variables) for render in items]
    if not isinstance(shape, str):
        constant = jsonable(shape)
        return lambda _: constant
    return _expression(shape, place, known) or Template(shape, place=place, known=known).render


def _expression(source: str, place: str, known: Collection[str]) -> _Renderer | None:
    """The renderer of a leaf that is exactly one expression, None for any other leaf."""
    if not source.startswith("{{"):
        return None
    environment = _environment("text")
    match _parse(source, place, known, environment).body:
        case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
            pass
        case _:
            return None
    assignment = nodes.Assign(nodes.Name("result", "store", lineno=1), expression, lineno=1)
    compiled = _from(nodes.Template([assignment], lineno=1), place, environment)

    def render(variables: Mapping[str, object]) -> Any:
        context = _context(compiled, variables)
        try:
            for _ in compiled.root_render_func(context):
                pass
            value = context.vars["result"]
            if isinstance(value, Undefined):
                str(value)  # a strict undefined raises over any use
            return _bounded(jsonable(list(value) if isinstance(value, Iterator) else value))
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            raise _failure(compiled, place, error) from None

    return render


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


class _Environment(ImmutableSandboxedEnvironment):
    # `+` and `~` can double a text in every turn of a loop, `*` and `**` fill the memory at once.
    intercepted_binops = frozenset({"+", "*", "**"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A key before a method of the same name: `row.values` is the column `values`."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    # No keyword argument of a call in a template can have the names of these parameters, as in the method this extends.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805, PYI063
        _step(__context)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (abs(right) > MAX_POWER or abs(left) > 10**MAX_POWER):
            raise OverflowError(f"an exponent above {MAX_POWER}, or a base of more than {MAX_POWER} digits")
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, str | bytes | list | tuple) and len(sequence) * times > MAX_TEXT:
                    raise OverflowError(f"a repetition of more than {MAX_TEXT}")
        return _bounded(super().call_binop(context, operator, left, right))


@functools.cache
def _environment(form: Literal["text", "html", "url"]) -> _Environment:
    finalize = _quoted if form == "url" else _printed
    environment = _Environment(undefined=_Strict, autoescape=form == "html", finalize=finalize)
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    for name in ("random", "pprint", "xmlattr"):  # a repeat must be byte-identical; the others are not for this
        del environment.filters[name]
    environment.filters |= {
        "json": _json,
        "tojson": _json,
        "humanize": _humanize,
        "humanize_percentage": _humanize_percentage,
        "humanize_duration": duration,
        _LOOP: _counted,
        _CONCAT: _bounded,
    }
    return environment


# Names that no template can write.
_LOOP = "turns of a loop"
_CONCAT = "joined text"
_STEPS = "steps so far"


def _parse(source: str, place: str, known: Collection[str], environment: _Environment) -> nodes.Template:
    """The syntax tree with loops counted and joins bounded. Raises TemplateError."""
    try:
        tree = environment.parse(source)
        unknown = sorted(meta.find_undeclared_variables(tree) - {*known, *environment.globals})
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{place}: line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise TemplateError(f"{place}: nested too deep") from None
    if unknown:
        raise TemplateError(f"{place}: there is no variable {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for loop in tree.find_all(nodes.For):
        loop.iter = _filtered(loop.iter, _LOOP)
    return _wrap_joins(tree)


def _wrap_joins(node: nodes.Template) -> nodes.Template:
    for parent in [node, *node.find_all(nodes.Node)]:
        for name, value in list(parent.iter_fields()):
            if isinstance(value, nodes.Concat):
                setattr(parent, name, _filtered(value, _CONCAT))
            elif isinstance(value, list):
                value[:] = [_filtered(item, _CONCAT) if isinstance(item, nodes.Concat) else item for item in value]
    return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


def _from(tree: nodes.Template, place: str, environment: _Environment) -> jinja2.Template:
    try:
        return environment.from_string(tree)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{place}: line {error.lineno}: {error.message}") from None
    except (RecursionError, MemoryError, SyntaxError):  # Python's own limits of nesting
        raise TemplateError(f"{place}: nested too deep") from None


def _context(compiled: jinja2.Template, variables: Mapping[str, object]) -> Context:
    return compiled.new_context({**variables, _STEPS: [0]})


def _step(context: Context) -> None:
    steps = context.parent[_STEPS]
    steps[0] += 1
    if steps[0] > MAX_STEPS:
        raise OverflowError(f"more than {MAX_STEPS} turns of loops and calls")


@jinja2.pass_context
def _counted(context: Context, items: Iterable[object]) -> Iterator[object]:
    for item in items:
        _step(context)
        yield item


def _bounded(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple) and len(value) > MAX_TEXT:
        raise OverflowError(f"longer than {MAX_TEXT}")
    return value


def _failure(compiled: jinja2.Template, place: str, error: Exception) -> TemplateError:
    if isinstance(error, _NothingError):
        return NothingPrintedError(f"{place}: {error}")
    if isinstance(error, RecursionError):
        why = "nested too deep"
    elif isinstance(error, jinja2.TemplateError):
        why = error.message or type(error).__name__
    else:
        why = f"{type(error).__name__}: {error}"
    line = _line(compiled, error.__traceback__)
    return TemplateError(f"{place}: line {line}: {why}" if line else f"{place}: {why}")


def _line(compiled: jinja2.Template, trace: TracebackType | None) -> int:
    line = 0
    while trace is not None:
        if trace.tb_frame.f_globals is compiled.root_render_func.__globals__:
            line = compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line


def _printed(value: object) -> object:
    """How a value stands in a text: as in the envelope."""
    if value is None:
        return ""
    if isinstance(value, str | int | float | Undefined) and not isinstance(value, bool):
        return value
    plain = jsonable(value)
    return plain if isinstance(plain, str) else _json(plain)


def _quoted(value: object) -> object:
    """How a value stands in an URL, as one part of it."""
    text = str(_printed(value))
    if not text:
        raise _NothingError("an expression prints nothing")
    return quote(text, safe="")


def _json(value: object) -> str:
    if isinstance(value, Undefined):
        str(value)
    return json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False)


def _humanize(value: Any) -> str:
    """Four significant digits and an SI prefix: `12.35k`, `1.5m`."""
    amount = float(value)
    if not math.isfinite(amount) or amount == 0:
        return f"{amount:.4g}"
    power = min(max(math.floor(math.log10(abs(amount)) / 3), -8), 8)
    return f"{amount / 1000.0**power:.4g}{'yzafpnum kMGTPEZY'[power + 8].strip()}"


def _humanize_percentage(value: Any) -> str:
    """A ratio as per cent, four significant digits: `12.5%`."""
    return f"{float(value) * 100:.4g}%"


def duration(value: Any) -> str:
    """Seconds (or a difference of times) in days, hours, minutes and seconds: `1d 2h 3m 4s`, below a second `250ms`."""
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
