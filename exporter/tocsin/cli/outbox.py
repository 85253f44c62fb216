"""`tocsin outbox`: the ledger's notifications."""

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tocsin.app.explaining import Explainer
from tocsin.app.surroundings import LedgerAlone
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration, with_ledger
from tocsin.cli.explain import life_lines
from tocsin.cli.paragraphs import fitted
from tocsin.cli.tables import cell, clock_time, table
from tocsin.config import Config
from tocsin.errors import Reason, TocsinError
from tocsin.ledger.base import SILENCED, Filter, Ledger, Record, Status
from tocsin.web import explanations, views

_SHORT = 12
"""Characters of an id on a terminal: as good as unique, and enough for the other commands."""


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    work = {"list": _list, "show": _show}.get(chosen.action, _change)
    return with_ledger(config, lambda ledger: work(ledger, config, chosen))


async def _list(ledger: Ledger, config: Config, chosen: Namespace) -> Exit:
    status = Status(chosen.status) if chosen.status else None
    wanted = Filter(**_filters(chosen), status=status, limit=chosen.limit)
    records = await ledger.find(wanted)
    # What the ledger still holds of a removed alert or channel can be listed.
    if not records:
        _check_known("channel", chosen.channel, config.channels)
        _check_known("alert", chosen.alert, config.alerts)
    if chosen.json:
        for record in records:
            print(views.text(views.notification(record, config.alerts.get(record.alert))))
        return Exit.OK
    rows = [
        (
            record.id[:_SHORT] if sys.stdout.isatty() else record.id,
            record.status,
            record.channel,
            record.alert,
            record.kind,
            clock_time(record.at / 1000),
            record.attempts,
            _why(record),
        )
        for record in records
    ]
    table(("id", "status", "channel", "alert", "kind", "at", "attempts", "why"), rows, empty="no such notifications")
    return Exit.OK


async def _show(ledger: Ledger, config: Config, chosen: Namespace) -> Exit:
    [record] = await _named(ledger, [chosen.id])
    shown = views.notification(record, config.alerts.get(record.alert))
    attempts = [views.attempt(one) for one in await ledger.attempts(record.id)]
    life = await _life(ledger, config, record)
    if chosen.json:
        print(views.text({**life, "failed_attempts": attempts}))
        return Exit.OK
    row, previous = shown.pop("row"), shown.pop("previous")
    table(("field", "value"), [(name, cell(value)) for name, value in shown.items()], empty="")
    print()
    rows = [(name, cell(value), *([cell(previous.get(name))] if previous else [])) for name, value in row.items()]
    table(("column", "value", *(["before"] if previous else [])), rows, empty="the row has no columns")
    if life["answers"]:
        print()
        table(("attempt", "outcome", "reason", "answer"), [tuple(one.values()) for one in life["answers"]], empty="")
    print()
    print(fitted(life_lines(life)))
    return Exit.OK


async def _life(ledger: Ledger, config: Config, record: Record) -> dict[str, Any]:
    around = LedgerAlone(config, ledger)
    try:
        life, route = await Explainer(config, ledger, around, ledger.now()).notification(record)
        shown = explanations.life(life, config.alerts.get(record.alert))
        return {**shown, "route": explanations.route(route)}
    finally:
        await around.close()


async def _change(ledger: Ledger, config: Config, chosen: Namespace) -> Exit:
    """Retry or drop."""
    if bool(chosen.id) == chosen.all:
        raise TocsinError("name notifications by id, or use --all")
    if chosen.all:
        wanted = Filter(**_filters(chosen), status=Status.DEAD, limit=1_000_000)
        records = await ledger.find(wanted)
        if not records:
            _check_known("channel", chosen.channel, config.channels)
            _check_known("alert", chosen.alert, config.alerts)
            await _say_pending(ledger, wanted, chosen.action)
    elif any(_filters(chosen).values()):
        raise TocsinError("--channel, --alert and --reason choose among all; use them with --all")
    else:
        records = await _named(ledger, chosen.id)
    ids = [record.id for record in records]
    count = await (ledger.retry(ids) if chosen.action == "retry" else ledger.drop(ids))
    done = "pending again" if chosen.action == "retry" else "dropped"
    print(views.text({"count": count}) if chosen.json else f"{count} {done}")
    able = (Status.DEAD, Status.DROPPED) if chosen.action == "retry" else (Status.DEAD, Status.PENDING)
    for record in records:
        if record.status not in able:
            print(f"{record.id} is {record.status}: nothing was done", file=sys.stderr)
    return Exit.OK if count or chosen.all else Exit.FAILED


def _filters(chosen: Namespace) -> dict[str, Any]:
    _check_known("reason", chosen.reason, [*map(str, Reason), SILENCED])
    return {"channel": chosen.channel, "alert": chosen.alert, "reason": chosen.reason}


async def _say_pending(ledger: Ledger, wanted: Filter, action: str) -> None:
    """With --all and no dead letters: say that pending notifications are not meant, if there are any."""
    pending = len(await ledger.find(replace(wanted, status=Status.PENDING)))
    if pending and action == "drop":
        few = "1 notification is pending" if pending == 1 else f"{pending:,} notifications are pending"
        print(f"--all drops dead letters only; {few}: name what to drop by id", file=sys.stderr)


async def _named(ledger: Ledger, given: Sequence[str]) -> list[Record]:
    """The notifications with these ids, or beginnings of ids. Raises TocsinError, which names all that are not there or
    begin several."""
    found: dict[str, Record] = {}
    wrong: list[str] = []
    for id_ in given:
        records = await ledger.find(Filter(id_prefix=id_, limit=2))
        if len(records) == 1:
            found[records[0].id] = records[0]
        else:
            wrong.append(f"{id_} begins several ids" if records else f"there is no notification {id_}")
    if wrong:
        raise TocsinError("; ".join(wrong))
    return list(found.values())


def _check_known(what: str, name: str | None, known: Iterable[str]) -> None:
    if name is not None and name not in known:
        raise TocsinError(f"there is no {what} {name!r}; there are {', '.join(known) or 'none'}")


def _why(record: Record) -> str:
    return f"{record.reason}: {record.detail}" if record.reason else record.detail
