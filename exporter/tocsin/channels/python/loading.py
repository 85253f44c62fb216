"""Load a handler by its name."""

import functools
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from tocsin.channels.python.settings import Config, Options
from tocsin.errors import ConfigError, Problem
from tocsin.redaction import redactor

log = structlog.get_logger(__name__)

GROUP = "tocsin.handlers"
"""The group of entry points for handlers."""

GIVEN = ("message", "log")
"""Keyword arguments passed to a handler whose signature has them."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler. `given`: which of `GIVEN` it has. `is_async`: its calls are awaited, without a thread."""

    call: Callable[..., Any]
    is_async: bool
    given: frozenset[str]


class _Refused(Exception):  # noqa: N818 - a sentence on its way up
    """Why a handler cannot be used."""


def loaded(name: str, config: Config, routes: Mapping[str, Options]) -> Handler:
    """Load the handler of a channel, and check its signature for every alert. Raises ConfigError."""
    try:
        target = _found(config)
        _check_kind(target, config.handler)
    except _Refused as refused:
        raise ConfigError([Problem(code="handler", message=str(refused), path=f"channels.{name}.handler")]) from None
    signature = _signature(target)
    given = _asked_for(signature)
    places = {f"alerts.{alert}.notify": options for alert, options in routes.items()} or {
        f"channels.{name}.handler": config
    }
    problems = [
        Problem(code="handler_arguments", message=f"channel {name}: {why}" if routes else why, path=path)
        for path, options in places.items()
        if (why := _misfit(config.handler, signature, given, options))
    ]
    if problems:
        raise ConfigError(problems)
    return Handler(call=target, is_async=_is_async(target), given=given)


def arguments(options: Options) -> dict[str, Any]:
    """Return the static arguments with the secrets in clear."""
    return {**options.arguments, **{name: value.get_secret_value() for name, value in options.secret_arguments.items()}}


def describe(error: BaseException, redact: Callable[[str], str]) -> str:
    """Return type and message of an exception in one line of at most 200 characters."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - the user's class may do anything
        message = ""
    return redact(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def _found(config: Config) -> Any:
    if config.path is not None:
        directory = Path(config.path)
        if not directory.is_dir():
            raise _Refused(f"path: there is no directory {config.path}")
        # At the end: a file named like a module of the standard library must not shadow it.
        if str(directory.resolve()) not in sys.path:
            sys.path.append(str(directory.resolve()))
            importlib.invalidate_caches()
    module, colon, attribute = config.handler.partition(":")
    try:
        if not colon:
            return _entry_point(config.handler)
        return _attribute(importlib.import_module(module), attribute)
    except _Refused:
        raise
    except BaseException as error:  # importing runs the user's code, which may raise anything
        if isinstance(error, KeyboardInterrupt):
            raise
        log.debug("the handler cannot be imported", handler=config.handler, exc_info=True)
        why = describe(error, redactor(config.secret_arguments.values()))
        raise _Refused(f"cannot import {module}: {why}") from None


def _entry_point(name: str) -> Any:
    found = importlib.metadata.entry_points(group=GROUP)
    named = [entry for entry in found if entry.name == name]
    if not named:
        known = ", ".join(sorted({entry.name for entry in found})) or "none"
        raise _Refused(
            f"no installed package has an entry point {name!r} in the group {GROUP} (found: {known}); "
            "write module:name for a handler without one"
        )
    if len({entry.value for entry in named}) > 1:
        values = ", ".join(sorted({entry.value for entry in named}))
        raise _Refused(f"several packages have an entry point {name!r}; write one of {values}")
    return named[0].load()


def _attribute(module: Any, path: str) -> Any:
    target = module
    for name in path.split("."):
        try:
            target = getattr(target, name)
        except AttributeError:
            where = getattr(module, "__file__", None) or "built into Python"
            raise _Refused(f"the module {module.__name__} ({where}) has no {path}") from None
    return target


def _check_kind(target: Any, spec: str) -> None:
    if not callable(target):
        raise _Refused(f"{spec} is a {type(target).__name__}, which cannot be called; name a function")
    if inspect.isclass(target):
        raise _Refused(f"{spec} is a class; name a function, or an object made of it")
    inner = _innermost(target)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise _Refused(f"{spec} is a generator, whose call runs nothing; use return instead of yield")


def _innermost(target: Any) -> Any:
    """Return the function inside a partial or a callable object."""
    while isinstance(target, functools.partial):
        target = target.func
    if inspect.isfunction(target) or inspect.ismethod(target) or inspect.isbuiltin(target):
        return target
    return inspect.getattr_static(type(target), "__call__", target)


def _is_async(target: Any) -> bool:
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(_innermost(target))


def _signature(target: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (ValueError, TypeError):  # some written in C have none
        return None


def _asked_for(signature: inspect.Signature | None) -> frozenset[str]:
    if signature is None:
        return frozenset()
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].kind in _POSITIONAL:
        del parameters[0]  # the envelope, under any name
    return frozenset(p.name for p in parameters if p.kind in _KEYWORD and p.name in GIVEN)


def _misfit(spec: str, signature: inspect.Signature | None, given: frozenset[str], options: Options) -> str:
    """Return why the handler cannot be called with these arguments; empty if it can."""
    if signature is None:
        return ""
    keywords = {**dict.fromkeys(given), **dict.fromkeys((*options.arguments, *options.secret_arguments))}
    try:
        signature.bind({}, **keywords)
    except TypeError as error:
        shown = ", ".join(["envelope", *(f"{name}=..." for name in keywords)])
        return f"{spec}{signature} cannot be called with ({shown}): {error}"
    return ""
