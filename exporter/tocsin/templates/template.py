"""Text and JSON made from a notification, in Jinja2.

Templates are written by whoever writes the configuration, their variables come from rows. So the sandbox is there
against accidents: a template reaches no Python internals, changes nothing it is given, and cannot run away (see
`MAXSTEPS`, `MAX_TEXT`). An unknown variable is an error, never an empty string.

`environment.py` holds the sandbox and the meaning of names and operators, `filters.py` what values print and what the
filters do.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, TypeAlias

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Context, Undefined

from tocsin.errors import TocsinError
from tocsin.templates.environment import (
    CONCAT,
    LOOP,
    MAX_TEXT,
    METHOD,
    ORDERED,
    PRINTED,
    STEPS,
    Environment,
    bounded,
    environment_of,
)
from tocsin.templates.filters import NothingError
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


class TemplateError(TocsinError, ValueError):
    """A template that does not compile or render; the text names the place and what is wrong with it."""


class NothingPrintedError(TemplateError):
    """An expression in a template of an URL that prints nothing: there is nobody to whom it could lead."""


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
            environment = environment_of(form)
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
            render = _expression("{{ " + source + " }}", place, known, "condition")
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


def _expression(
    source: str, place: str, known: Collection[str], form: Literal["text", "condition"] = "text"
) -> _Renderer | None:
    """The renderer of a leaf that is exactly one expression, None for any other leaf."""
    if not source.startswith("{{"):
        return None
    environment = environment_of(form)
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
            return bounded(jsonable(list(value) if isinstance(value, Iterator) else value))
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            raise _failure(compiled, place, error) from None

    return render


def _parse(source: str, place: str, known: Collection[str], environment: Environment) -> nodes.Template:
    """The syntax tree with loops counted, joins bounded, and NULL and methods as `environment.py` defines them. Raises
    TemplateError."""
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
        loop.iter = _filtered(loop.iter, LOOP)
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr):
            call.node = _filtered(call.node.node, METHOD, call.node.attr)
    for joined in tree.find_all(nodes.Concat):
        joined.nodes = [_filtered(part, PRINTED) for part in joined.nodes]
    if not environment.strict:
        _compare_null(tree)
    return _wrap_joins(tree)


_ORDERING = frozenset({"gt", "gteq", "lt", "lteq"})


def _compare_null(tree: nodes.Template) -> None:
    """Make `<`, `<=`, `>` and `>=` false where one side is NULL."""
    for comparison in tree.find_all(nodes.Compare):
        if all(operand.op in _ORDERING for operand in comparison.ops):
            comparison.expr = _filtered(comparison.expr, ORDERED)
            for operand in comparison.ops:
                operand.expr = _filtered(operand.expr, ORDERED)


def _wrap_joins(node: nodes.Template) -> nodes.Template:
    for parent in [node, *node.find_all(nodes.Node)]:
        for name, value in list(parent.iter_fields()):
            if isinstance(value, nodes.Concat):
                setattr(parent, name, _filtered(value, CONCAT))
            elif isinstance(value, list):
                value[:] = [_filtered(item, CONCAT) if isinstance(item, nodes.Concat) else item for item in value]
    return node


def _filtered(node: nodes.Node, name: str, *arguments: str) -> nodes.Filter:
    constants = [nodes.Const(one, lineno=node.lineno, environment=node.environment) for one in arguments]
    return nodes.Filter(node, name, constants, [], None, None, lineno=node.lineno, environment=node.environment)


def _from(tree: nodes.Template, place: str, environment: Environment) -> jinja2.Template:
    try:
        return environment.from_string(tree)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{place}: line {error.lineno}: {error.message}") from None
    except (RecursionError, MemoryError, SyntaxError):  # Python's own limits of nesting
        raise TemplateError(f"{place}: nested too deep") from None


def _context(compiled: jinja2.Template, variables: Mapping[str, object]) -> Context:
    return compiled.new_context({**variables, STEPS: [0]})


def _failure(compiled: jinja2.Template, place: str, error: Exception) -> TemplateError:
    if isinstance(error, NothingError):
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
