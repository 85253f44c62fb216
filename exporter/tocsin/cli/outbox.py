"""`tocsin outbox`: the ledger's notifications."""

import asyncio
import dataclasses
import json
from argparse import Namespace
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tocsin.cli import Exit
from tocsin.cli.configuration import configuration
from tocsin.cli.tables import clock_time, table
from tocsin.errors import TocsinError
from tocsin.ledger.base import Filter, Ledger, Record, Status
from tocsin.ledger.sqlite import open_ledger
from tocsin.values import jsonable, typed


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    ledger = open_ledger(Path(config.ledger.path), exclusive=False)
    actions = {"list": _list, "show": _show, "retry": _restate, "drop": _restate}
    return asyncio.run(_closing(ledger, actions[chosen.action](ledger, chosen)))


async def _closing(ledger: Ledger, work: Coroutine[Any, Any, Exit]) -> Exit:
    try:
        return await work
    finally:
        await ledger.close()


async def _list(ledger: Ledger, chosen: Namespace) -> Exit:
    status = Status(chosen.status) if chosen.status else None
    wanted = Filter(status=status, channel=chosen.channel, alert=chosen.alert, limit=chosen.limit)
    records = await ledger.find(wanted)
    if chosen.json:
        for record in records:
            print(json.dumps(_plain(record)))
        return Exit.OK
    rows = [
        (
            record.id,
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


async def _show(ledger: Ledger, chosen: Namespace) -> Exit:
    records = await ledger.find(Filter(id=chosen.id, limit=1))
    if not records:
        raise TocsinError(f"there is no notification {chosen.id}")
    plain = _plain(records[0])
    attempts = [
        {"at": clock_time(one.at), "reason": one.reason, "detail": one.detail}
        for one in await ledger.attempts(chosen.id)
    ]
    if chosen.json:
        print(json.dumps({**plain, "failed_attempts": attempts}))
        return Exit.OK
    row, previous = plain.pop("row"), plain.pop("previous")
    table(("field", "value"), [(name, "" if value is None else value) for name, value in plain.items()], empty="")
    print()
    rows = [(name, _cell(value), *([_cell(previous.get(name))] if previous else [])) for name, value in row.items()]
    table(("column", "value", *(["before"] if previous else [])), rows, empty="the row has no columns")
    if attempts:
        print()
        table(("failed attempt", "reason", "detail"), [tuple(attempt.values()) for attempt in attempts], empty="")
    return Exit.OK


async def _restate(ledger: Ledger, chosen: Namespace) -> Exit:
    if bool(chosen.id) == chosen.all:
        raise TocsinError("name notifications by id, or say --all")
    ids = list(chosen.id)
    if chosen.all:
        wanted = Filter(status=Status.DEAD, channel=chosen.channel, limit=1_000_000)
        ids = [record.id for record in await ledger.find(wanted)]
    count = await (ledger.retry(ids) if chosen.action == "retry" else ledger.drop(ids))
    done = "pending again" if chosen.action == "retry" else "dropped"
    print(json.dumps({"count": count}) if chosen.json else f"{count} {done}")
    return Exit.OK if count or chosen.all else Exit.FAILED


def _plain(record: Record) -> dict[str, Any]:
    plain = dataclasses.asdict(record)
    plain.pop("columns")
    plain.pop("seq")
    plain["started_at"] = clock_time(record.started_at / 1000)
    plain["at"] = clock_time(record.at / 1000)
    for name in ("created_at", "not_before", "settled_at"):
        plain[name] = clock_time(plain[name]) if plain[name] else None
    names = [column.name for column in record.columns]
    for part, row in (("row", record.row), ("previous", record.previous)):
        if row is not None:
            values = (jsonable(typed(column, text)) for column, text in zip(record.columns, row, strict=True))
            plain[part] = dict(zip(names, values, strict=True))
    return plain


def _why(record: Record) -> str:
    return f"{record.reason}: {record.detail}" if record.reason else record.detail


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
