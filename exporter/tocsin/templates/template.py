"""Text, JSON and conditions made from a notification, in Jinja2.

The author of the configuration writes the templates; their variables come from rows. So the sandbox is there against
accidents: a template reaches no Python internals and changes nothing it is given, and what it prints is limited
(`MAX_TEXT`). Loops run over the values of a row, or over a `range` of at most 100,000 (Jinja's own limit). An unknown
variable is an error, never an empty string.

`environment.py` holds the sandbox and the meaning of names and operators, `filters.py` what values print and what the
filters do.
"""

import re
from collections.abc import Callable, Collection, Mapping
from decimal import DecimalException
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal, TypeAlias

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Undefined

from tocsin.templates.environment import (
    EACH,
    MAX_TEXT,
    METHOD,
    ORDERED,
    PRINTED,
    Environment,
    MissingError,
    environment_of,
)
from tocsin.templates.errors import TemplateCode, TemplateError
from tocsin.templates.filters import NothingError
from tocsin.values import jsonable

VARIABLES = frozenset(
    {
        *("id", "alert", "status", "fingerprint", "started_at", "at", "labels", "value", "row", "previous"),
        *("annotations", "merged"),
    }
)
"""What a template may name: the keys of the envelope; `merged` is a list of at least the one."""

Form: TypeAlias = Literal["text", "html", "url", "condition"]
_Renderer: TypeAlias = Callable[[Mapping[str, object]], Any]


class Template:
    """A text with `{{ }}` in it, compiled once.

    `place` is its name in errors (`alerts.late.annotations.summary`). `form` is what the text is part of: what a
    template of HTML prints is escaped, but for what passes the filter `safe`; what one of a URL prints is quoted, so
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
            compiled = _compiled(source, place, known, form)
            assert compiled is not None
            self._compiled = compiled

    def __repr__(self) -> str:
        return f"Template({self.source!r})"

    def render(self, variables: Mapping[str, object]) -> str:
        """The text. Raises TemplateError, whatever went wrong."""
        if self.constant:
            return self.source
        chunks: list[str] = []
        room = MAX_TEXT
        try:
            for chunk in self._compiled.root_render_func(self._compiled.new_context({**variables})):
                room -= len(chunk)
                if room < 0:
                    raise TemplateError(TemplateCode.TOO_LONG, place=self._place, detail=f"{MAX_TEXT:,}")
                chunks.append(chunk)
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            raise _failure(self._compiled, self._place, error) from None
        return "".join(chunks)


class Structure:
    """Nested mappings and lists whose strings are templates, for JSON bodies. Keys are literal, other values stay as
    they are.

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
            render = _expression("{{ " + source + " }}", place, known, "condition")
        except TemplateError as error:
            raise error.with_hint(_of_another_language(source)) from None
        if render is None:
            raise TemplateError(TemplateCode.NOT_ONE_EXPRESSION, place=place)
        self._render = render

    def __repr__(self) -> str:
        return f"Condition({self.source!r})"

    def holds(self, variables: Mapping[str, object]) -> bool:
        """Whether it is true, as Jinja and Python understand it. Raises TemplateError, whatever went wrong."""
        return bool(self._render(variables))


_OTHER_LANGUAGES = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (r"\{\{|\}\}", "write the expression without {{ }}"),
        (r"(?<![=!<>])=(?!=)", "to compare, write =="),
        (r"<>", "write != for <>"),
        (r"&&|\|\||!(?!=)", "write and, or, not"),
        (r"\b(AND|OR|NOT|IN|IS|TRUE|FALSE)\b", "write words such as and, or, not in lower case"),
        (r"\b(?i:null)\b", "NULL is none: row.x is none, row.x is not none"),
    )
)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def _of_another_language(condition: str) -> str:
    """What to write instead of something of SQL or C in a condition that is not valid; empty if there is none."""
    bare = _QUOTED.sub("", condition)
    return next((hint for pattern, hint in _OTHER_LANGUAGES if pattern.search(bare)), "")


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


def _expression(source: str, place: str, known: Collection[str], form: Form = "text") -> _Renderer | None:
    """The renderer of a leaf that is exactly one expression, None for any other leaf."""
    compiled = _compiled(source, place, known, form, whole=True) if source.startswith("{{") else None
    if compiled is None:
        return None

    def render(variables: Mapping[str, object]) -> Any:
        context = compiled.new_context({**variables})
        try:
            for _ in compiled.root_render_func(context):
                pass
            value = context.vars["result"]
            if isinstance(value, Undefined):
                str(value)  # a strict undefined raises over any use
            return jsonable(value)
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            raise _failure(compiled, place, error) from None

    return render


def _compiled(
    source: str, place: str, known: Collection[str], form: Form, *, whole: bool = False
) -> jinja2.Template | None:
    try:
        return _program(source, frozenset(known), form, whole)
    except TemplateError as error:
        raise error.at(place) from None


@lru_cache(maxsize=4096)
def _program(source: str, known: frozenset[str], form: Form, whole: bool) -> jinja2.Template | None:
    """Compile a text; with `whole` its expression, or None if it is not exactly one. Raises TemplateError."""
    environment = environment_of(form)
    try:
        tree = _adapted(environment.parse(source), environment)
        unknown = sorted(meta.find_undeclared_variables(tree) - {*known, *environment.globals})
        if unknown:
            raise TemplateError(TemplateCode.UNKNOWN_VARIABLE, name=unknown[0], available=sorted(known))
        if whole:
            match tree.body:
                case [nodes.Output(nodes=[expression])] if not isinstance(expression, nodes.TemplateData):
                    result = nodes.Assign(nodes.Name("result", "store", lineno=1), expression, lineno=1)
                    tree = nodes.Template([result], lineno=1)
                case _:
                    return None
        return environment.from_string(tree)
    except jinja2.TemplateSyntaxError as error:
        # In a condition the braces are ours: its author does not know of a "print statement".
        detail = (error.message or "").replace("end of print statement", "the end")
        if detail.startswith("unexpected char '$'"):
            detail += "; Prometheus's $labels.x and $value are labels.x and value here"
        raise TemplateError(TemplateCode.SYNTAX, line=error.lineno, detail=detail) from None
    except (RecursionError, MemoryError, SyntaxError):  # Python's own limits of nesting
        raise TemplateError(TemplateCode.TOO_DEEP) from None


def _adapted(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """The syntax tree with NULL and methods as `environment.py` defines them."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _filtered(loop.iter, EACH)
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr):
            call.node = _filtered(call.node.node, METHOD, call.node.attr)
    for joined in tree.find_all(nodes.Concat):
        joined.nodes = [_filtered(part, PRINTED) for part in joined.nodes]
    for comparison in tree.find_all(nodes.Compare) if not environment.strict else ():
        # `<`, `<=`, `>` and `>=` are false where one side is NULL.
        if all(operand.op in _ORDERING for operand in comparison.ops):
            comparison.expr = _filtered(comparison.expr, ORDERED)
            for operand in comparison.ops:
                operand.expr = _filtered(operand.expr, ORDERED)
    return tree


_ORDERING = frozenset({"gt", "gteq", "lt", "lteq"})


def _filtered(node: nodes.Node, name: str, *arguments: str) -> nodes.Filter:
    constants = [nodes.Const(one, lineno=node.lineno, environment=node.environment) for one in arguments]
    return nodes.Filter(node, name, constants, [], None, None, lineno=node.lineno, environment=node.environment)


def _failure(compiled: jinja2.Template, place: str, error: Exception) -> TemplateError:
    line = _line(compiled, error.__traceback__)
    match error:
        case TemplateError():
            return error
        case MissingError():
            return TemplateError(error.code, place=place, line=line, name=error.name, available=error.available)
        case NothingError():
            return TemplateError(TemplateCode.EMPTY, place=place)
        case RecursionError():
            return TemplateError(TemplateCode.TOO_DEEP, place=place, line=line)
        case ZeroDivisionError():  # that of decimal names classes
            return TemplateError(TemplateCode.FAILED, place=place, line=line, detail="division by zero")
        case DecimalException():
            detail = "arithmetic with a numeric column has no result: a division of zero by zero, or too large a number"
            return TemplateError(TemplateCode.FAILED, place=place, line=line, detail=detail)
        case jinja2.TemplateError(message=str(message)):
            return TemplateError(TemplateCode.FAILED, place=place, line=line, detail=message)
    return TemplateError(TemplateCode.FAILED, place=place, line=line, detail=f"{type(error).__name__}: {error}")


def _line(compiled: jinja2.Template, trace: TracebackType | None) -> int:
    line = 0
    while trace is not None:
        if trace.tb_frame.f_globals is compiled.root_render_func.__globals__:
            line = compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
