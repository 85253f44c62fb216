"""Objects that run as tasks, each from a spec."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member(Generic[T]):
    spec: object
    runs: T
    task: asyncio.Task[None]


class Fleet(Generic[T]):
    """Running objects by name. Each has a spec, the part of the configuration that it was built from: while the spec is
    equal, it keeps running."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._members: dict[str, _Member[T]] = {}

    def get(self, name: str) -> T | None:
        """Return what runs under a name."""
        member = self._members.get(name)
        return None if member is None else member.runs

    def all(self) -> dict[str, T]:
        """Return everything that runs, by name."""
        return {name: member.runs for name, member in self._members.items()}

    def start(self, name: str, spec: object, runs: T, work: Coroutine[None, None, None], task: str) -> None:
        """Run `work` as a task. `task`: its name."""
        self._members[name] = _Member(spec=spec, runs=runs, task=self._tasks.create_task(work, name=task))

    def outdated(self, specs: Mapping[str, object]) -> list[str]:
        """Return the names that are not in `specs`, or have another spec there."""
        return [name for name, member in self._members.items() if name not in specs or member.spec != specs[name]]

    async def stop(self, names: Iterable[str]) -> list[T]:
        """Cancel, and return what ran when all tasks have ended."""
        stopped = [self._members.pop(name) for name in names]
        for member in stopped:
            member.task.cancel()
        await asyncio.gather(*(member.task for member in stopped), return_exceptions=True)
        return [member.runs for member in stopped]
