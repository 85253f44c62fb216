"""`tocsin explain`: why a key of an alert fires or not, and what was sent of it."""

import json
import sys
import urllib.parse
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from tocsin.app.explaining import Explainer
from tocsin.app.surroundings import LedgerAlone
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration, with_ledger
from tocsin.cli.paragraphs import Lines, fitted
from tocsin.cli.running import UnreachableError, running
from tocsin.cli.tables import cell
from tocsin.config import Config
from tocsin.errors import TocsinError
from tocsin.explain.keys import Asked
from tocsin.explain.words import counted, sentence
from tocsin.ledger.base import Ledger
from tocsin.web import explanations, views

_SHORT = 12
_ANSWERS = 3
"""Attempts that are shown: the last ones."""
_SIZE = 80
"""Characters of a text of a request that is shown: `tocsin outbox show` has all of it."""


def command(chosen: Namespace) -> Exit:
    found = _found(chosen)
    if chosen.json:
        print(views.text(found))
    else:
        print(fitted(_lines(found)))
    return Exit.OK


def _found(chosen: Namespace) -> dict[str, Any]:
    """Ask the running process; without one, and where no other place was named, the ledger."""
    query = urllib.parse.urlencode([("key", value) for value in chosen.values])
    try:
        with running(chosen).get(f"/api/v1/explain/{urllib.parse.quote(chosen.alert, safe='')}?{query}") as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except UnreachableError as error:
        if chosen.url:
            raise
        print(f"{error}; reading the ledger", file=sys.stderr)
    config = configuration(chosen)
    if chosen.alert not in config.alerts:
        raise TocsinError(f"there is no alert {chosen.alert!r}; there are {', '.join(config.alerts)}")
    return with_ledger(config, lambda ledger: _of_ledger(config, ledger, chosen))


async def _of_ledger(config: Config, ledger: Ledger, chosen: Namespace) -> dict[str, Any]:
    around = LedgerAlone(config, ledger)
    try:
        found = await Explainer(config, ledger, around, ledger.now()).key(
            chosen.alert, Asked(values=tuple(chosen.values))
        )
        return explanations.explanation(found, config.alerts[chosen.alert])
    finally:
        await around.close()


def _lines(found: Mapping[str, Any]) -> Lines:
    yield 0, found["summary"]
    for text in (*found["because"], *found["unknown"]):
        yield 2, text
    if found["nearest"]:
        yield from keys_listed(found)
    if found["row"]:
        yield from _row(found)
    for route in found["routes"]:
        state = f": {route['state']}" if route["state"] else ""
        yield from [(0, ""), (0, f"channel {route['channel']} ({route['type'] or 'not configured'}){state}")]
        yield from ((2, text) for text in route["says"])
    for one in found["notifications"]:
        yield from notification_lines(one)
    if found["next"]:
        yield from [(0, ""), (0, "next")]
        for step in found["next"]:
            yield 2, f"{step['at']}: {step['text']}" if step["at"] else sentence(step["text"])


def keys_listed(found: Mapping[str, Any]) -> Lines:
    """The keys to ask about. Those that read alike, as an empty text and NULL do, are named by fingerprint."""
    heading = {"several": "keys that match", "alert": "keys to ask about"}.get(found["verdict"], "the nearest keys")
    yield from [(0, ""), (0, heading)]
    written = [" ".join(f"{name}={cell(text)}" for name, text in one["key"].items()) for one in found["nearest"]]
    for key, one in zip(written, found["nearest"], strict=True):
        alike = f"  {one['fingerprint']}" if written.count(key) > 1 else ""
        yield 2, f"{key}{alike}  ({one['phase']})" if one["phase"] else f"{key}{alike}"


def _row(found: Mapping[str, Any]) -> Lines:
    yield from [(0, ""), (0, "row")]
    width = max(map(len, found["row"]))
    for name, value in found["row"].items():
        yield 2, f"{name:<{width}}  {'null' if value is None else cell(value)}"


def notification_lines(one: Mapping[str, Any]) -> Lines:
    """What became of a notification of a key, with its last attempts and the short parts of its request."""
    yield 0, ""
    yield 0, f"notification {one['id'][:_SHORT]}: {one['kind']} at {one['at']}, to {one['channel']}: {one['status']}"
    yield from ((2, text) for text in one["says"])
    answers = one["answers"]
    if len(answers) == 1:
        answers = []  # the sentences have it
    if len(answers) > _ANSWERS:
        yield 2, f"{counted(len(answers) - _ANSWERS, 'earlier attempt', 'earlier attempts')} failed, too"
    for answer in answers[-_ANSWERS:]:
        yield 2, f"{answer['at']} {answer['outcome']}{_answer(answer)}"
    if one["request"] is not None:
        texts = {name: _short(item) for name, item in one["request"].items()}
        short = (f"{name} {text}" for name, text in texts.items() if text and len(text) < _SIZE)
        yield 2, f"request: {', '.join(short) or ', '.join(one['request'])}"
    elif one["request_error"]:
        yield 2, f"no request: {one['request_error']}"


def _short(item: object) -> str:
    """Return a text, or a list of texts as recipients are, on one line; nothing for what is larger."""
    items = item if isinstance(item, list) else [item]
    texts = [one for one in items if isinstance(one, str)]
    return " ".join(texts) if len(texts) == len(items) else ""


def _answer(answer: Mapping[str, Any]) -> str:
    text = ": ".join(part for part in (answer["reason"], answer["answer"]) if part)
    return f": {text}" if text else ""


def life_lines(one: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The lines that say what became of a notification, with its whole request."""
    yield from ((0, text) for text in one["says"])
    if one["next"] is not None:
        at = f" at {one['next']['at']}" if one["next"]["at"] else ""
        yield 0, f"next{at}: {one['next']['text']}"
    route = one["route"]
    yield from [(0, ""), (0, f"route to {route['channel']} ({route['type'] or 'not configured'})")]
    yield from ((2, text) for text in route["says"] or ["All notifications of the alert are sent."])
    yield from [(0, ""), (0, "request, as the configuration of now makes it")]
    if one["request"] is None:
        yield 2, f"none: {one['request_error']}"
    else:
        yield from ((2, line) for line in json.dumps(one["request"], ensure_ascii=False, indent=2).splitlines())
