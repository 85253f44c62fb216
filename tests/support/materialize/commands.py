"""The double's hands as JSON: one command a line in, one answer a line out. So another process can be the server.

A command is ``{"do": "insert", "relation": "orders", "args": [[1, "a"]], "with": {}}``: the name of a method, the
relation it is about (by its present name), and its arguments. The answer is ``{"ok": true, "result": ...}`` or ``{"ok":
false, "error": ...}``. A relation in a result is shown by its object id.
"""

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

from support.materialize.catalog import Cluster, Relation
from support.materialize.errors import ServerError
from support.materialize.load import Load, still_rows
from support.materialize.server import MaterializeDouble

OF_RELATION = frozenset({"insert", "delete", "update", "change", "fail", "heal", "freeze", "rows"})
"""Methods of `Relation`."""

ABOUT_RELATION = frozenset(
    {
        "allow",
        "alter_columns",
        "apply_replacement",
        "caught_up",
        "compact",
        "deny",
        "drop",
        "fall_behind",
        "oversize",
        "rename",
        "replace",
        "subscribed",
        "subscribers",
        "unsubscribed",
    }
)
"""Methods of `MaterializeDouble` whose relation comes first (after the role, where there is one)."""

OF_DOUBLE = frozenset(
    {
        "admit",
        "create",
        "create_cluster",
        "cut",
        "deaf",
        "disconnect",
        "drop_cluster",
        "future",
        "kill",
        "refuse",
        "scale",
        "slow",
        "start",
        "swap_clusters",
        "swap_schemas",
        "tick",
    }
)
"""Other methods of `MaterializeDouble`."""

OF_LOAD = frozenset({"fill", "run", "change_load"})
"""Methods of `Load`, on the relation that ``load`` made; ``change_load`` is its `Load.change`."""


class UnknownCommandError(Exception):
    """There is no such command, or its arguments do not fit."""


class Commands:
    """Carries commands out on a double."""

    def __init__(self, double: MaterializeDouble) -> None:
        self._double = double
        self._loads: dict[Relation, Load] = {}

    async def answer(self, line: str) -> str:
        """Carry one command out. Never raises for what a command does wrong."""
        try:
            result = await self._do(json.loads(line))
        except (UnknownCommandError, ServerError, ValueError, KeyError, TypeError, RuntimeError, OSError) as failure:
            return json.dumps({"ok": False, "error": f"{type(failure).__name__}: {failure}"})
        return json.dumps({"ok": True, "result": result})

    async def _do(self, command: dict[str, Any]) -> object:
        name = command["do"]
        relation = self._double.relation(command["relation"]) if "relation" in command else None
        arguments: list[Any] = command.get("args", [])
        named: dict[str, Any] = command.get("with", {})
        if name == "statements":
            return self._double.statements
        if name == "connections":
            return self._double.connections
        if name == "load":
            return await self._load(*arguments, **named)
        if name in ("silence", "resume"):
            method: Callable[..., object] = getattr(self._double, name)
            return _plain(method(relation if relation is not None else arguments[0]))
        before: list[object] = []
        if relation is None and name in OF_DOUBLE:
            method = getattr(self._double, name)
        elif relation is not None:
            method, before = self._about(name, relation, arguments)
        else:
            raise UnknownCommandError(f"no command {name!r}, or it needs a relation")
        result = method(*before, *arguments, **named)
        return _plain(await result if inspect.isawaitable(result) else result)

    def _about(self, name: str, relation: Relation, arguments: list[Any]) -> tuple[Callable[..., object], list[object]]:
        if name in OF_RELATION:
            method: Callable[..., object] = getattr(relation, name)
            return method, []
        if name in OF_LOAD and relation in self._loads:
            method = getattr(self._loads[relation], name.removesuffix("_load"))
            return method, []
        if name in ("deny", "allow"):
            method = getattr(self._double, name)
            return method, [arguments.pop(0), relation]
        if name in ABOUT_RELATION:
            method = getattr(self._double, name)
            return method, [relation]
        if name == "frontiers":
            return lambda: [relation.history.since, relation.history.upper], []
        raise UnknownCommandError(f"no command {name!r} about a relation")

    async def _load(self, name: str, rows: int, **named: Any) -> int:
        load = Load(self._double, name, still=await asyncio.to_thread(still_rows, rows), **named)
        load.fill()
        self._loads[load.relation] = load
        return rows


def _plain(result: object) -> object:
    if isinstance(result, Relation):
        return result.id
    return result.name if isinstance(result, Cluster) else result
