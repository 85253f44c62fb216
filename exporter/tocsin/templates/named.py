"""The values that an expression names, for people."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import jinja2
from jinja2 import nodes

from tocsin.values import jsonable


def named_values(expression: str, variables: Mapping[str, object]) -> dict[str, Any]:
    """Return what an expression reads, as `row.severity`, with its value as JSON, in the order of the text. A name
    without a value is left out."""
    try:
        tree = jinja2.Environment(autoescape=False).parse("{{ " + expression + " }}")  # noqa: S701 - parsed, never run
    except (jinja2.TemplateSyntaxError, RecursionError):
        return {}
    found: dict[str, Any] = {}
    for root, *names in _paths(tree):
        value: Any = variables.get(str(root))
        with suppress(LookupError, TypeError):
            for name in names:
                value = value[name]
            if str(root) in variables:
                found[".".join(map(str, (root, *names)))] = jsonable(value)
    return found


def _paths(node: nodes.Node) -> Iterator[tuple[str | int, ...]]:
    path = _path(node)
    if path:
        yield path
        return
    for child in node.iter_child_nodes():
        yield from _paths(child)


def _path(node: nodes.Node) -> tuple[str | int, ...]:
    """`row.severity` as its names; empty for anything else."""
    match node:
        case nodes.Name(name=str(name)):
            return (name,)
        case nodes.Getattr(node=inner, attr=str(name)) if path := _path(inner):
            return (*path, name)
        case nodes.Getitem(node=inner, arg=nodes.Const(value=str() | int() as name)) if path := _path(inner):
            return (*path, name)
    return ()
