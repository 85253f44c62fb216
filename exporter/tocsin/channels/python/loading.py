"""Load a handler by its name."""

import importlib
import importlib.metadata
import inspect
import pkgutil
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


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler. `given`: which of `GIVEN` it has. `is_async`: it is called in the event loop."""

    call: Callable[..., Any]
    is_async: bool
    given: frozenset[str]


class _Refused(Exception):  # noqa: N818 - a sentence on its way up
    """Why a handler cannot be used."""


def loaded(name: str, config: Config, routes: Mapping[str, Options]) -> Handler:
    """Load the handler of a channel, and check its signature for every alert. Raises ConfigError."""
    path = f"channels.{name}.handler"
    try:
        target = _found(config)
    except _Refused as refused:
        raise ConfigError([Problem(code="handler", message=str(refused), path=path)]) from None
    signature = _signature(target)
    given = _asked_for(signature)
    places: dict[str, Options] = {f"alerts.{alert}.notify": options for alert, options in routes.items()}
    problems = [
        Problem(code="handler_arguments", message=f"channel {name}: {why}" if routes else why, path=place)
        for place, options in (places or {path: config}).items()
        if (why := _misfit(config.handler, signature, given, options))
    ]
    if problems:
        raise ConfigError(problems)
    is_async = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(target.__call__)
    return Handler(call=target, is_async=is_async, given=given)


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
    spec = config.handler
    try:
        target = pkgutil.resolve_name(spec) if ":" in spec else _entry_point(spec).load()
    except _Refused:
        raise
    except BaseException as error:  # importing runs the user's code, which may raise anything
        if isinstance(error, KeyboardInterrupt):
            raise
        log.debug("the handler cannot be imported", handler=spec, exc_info=True)
        why = describe(error, redactor(config.secret_arguments.values()))
        raise _Refused(f"cannot import {spec}: {why}") from None
    if not callable(target):
        raise _Refused(f"{spec} is a {type(target).__name__}, which cannot be called; name a function")
    if inspect.isclass(target):
        raise _Refused(f"{spec} is a class; name a function, or an object made of it")
    for function in (target, target.__call__):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise _Refused(f"{spec} is a generator, whose call runs nothing; use return instead of yield")
    return target


def _entry_point(name: str) -> importlib.metadata.EntryPoint:
    found = importlib.metadata.entry_points(group=GROUP)
    named = {entry.value: entry for entry in found if entry.name == name}
    if len(named) > 1:
        raise _Refused(f"several packages have an entry point {name!r}; write one of {', '.join(sorted(named))}")
    if not named:
        known = ", ".join(sorted(found.names)) or "none"
        raise _Refused(
            f"no installed package has an entry point {name!r} in the group {GROUP} (found: {known}); "
            "write module:name for a handler without one"
        )
    return named.popitem()[1]


def _signature(target: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(target)
    except (ValueError, TypeError):  # some written in C have none
        return None


def _asked_for(signature: inspect.Signature | None) -> frozenset[str]:
    parameters = list(signature.parameters.values()) if signature is not None else []
    if parameters and parameters[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        del parameters[0]  # the envelope, under any name
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return frozenset(one.name for one in parameters if one.kind in keyword and one.name in GIVEN)


def _misfit(spec: str, signature: inspect.Signature | None, given: frozenset[str], options: Options) -> str:
    """Return why the handler cannot be called with these arguments; empty if it can."""
    keywords = {**dict.fromkeys(given), **dict.fromkeys((*options.arguments, *options.secret_arguments))}
    try:
        if signature is not None:
            signature.bind({}, **keywords)
    except TypeError as error:
        shown = ", ".join(["envelope", *(f"{name}=..." for name in keywords)])
        return f"{spec}{signature} cannot be called with ({shown}): {error}"
    return ""
