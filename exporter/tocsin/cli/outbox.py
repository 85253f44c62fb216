"""`tocsin outbox`: the ledger's notifications."""

import asyncio
from argparse import Namespace
from collections.abc import Coroutine, Mapping
from typing import Any

from tocsin.alert import Alert
from tocsin.cli import Exit
from tocsin.cli.configuration import configuration, existing_ledger
from tocsin.cli.tables import clock_time, table
from tocsin.errors import TocsinError
from tocsin.ledger.base import Filter, Ledger, Record, Status
from tocsin.web import views


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    ledger = existing_ledger(config)
    match chosen.action:
        case "list":
            work = _list(ledger, config.alerts, chosen)
        case "show":
            work = _show(ledger, config.alerts, chosen)
        case _:
            work = _change(ledger, chosen)
    return asyncio.run(_closing(ledger, work))


async def _closing(ledger: Ledger, work: Coroutine[Any, Any, Exit]) -> Exit:
    try:
        return await work
    finally:
        await ledger.close()


async def _list(ledger: Ledger, alerts: Mapping[str, Alert], chosen: Namespace) -> Exit:
    status = Status(chosen.status) if chosen.status else None
    wanted = Filter(status=status, channel=chosen.channel, alert=chosen.alert, limit=chosen.limit)
    records = await ledger.find(wanted)
    if chosen.json:
        for record in records:
            print(views.text(views.notification(record, alerts.get(record.alert))))
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


async def _show(ledger: Ledger, alerts: Mapping[str, Alert], chosen: Namespace) -> Exit:
    records = await ledger.find(Filter(id=chosen.id, limit=1))
    if not records:
        raise TocsinError(f"there is no notification {chosen.id}")
    shown = views.notification(records[0], alerts.get(records[0].alert))
    attempts = [views.attempt(one) for one in await ledger.attempts(chosen.id)]
    if chosen.json:
        print(views.text({**shown, "failed_attempts": attempts}))
        return Exit.OK
    row, previous = shown.pop("row"), shown.pop("previous")
    table(("field", "value"), [(name, _cell(value)) for name, value in shown.items()], empty="")
    print()
    rows = [(name, _cell(value), *([_cell(previous.get(name))] if previous else [])) for name, value in row.items()]
    table(("column", "value", *(["before"] if previous else [])), rows, empty="the row has no columns")
    if attempts:
        print()
        table(("failed attempt", "reason", "detail"), [tuple(attempt.values()) for attempt in attempts], empty="")
    return Exit.OK


async def _change(ledger: Ledger, chosen: Namespace) -> Exit:
    """Retry or drop."""
    if bool(chosen.id) == chosen.all:
        raise TocsinError("name notifications by id, or use --all")
    ids = list(chosen.id)
    if chosen.all:
        wanted = Filter(status=Status.DEAD, channel=chosen.channel, limit=1_000_000)
        ids = [record.id for record in await ledger.find(wanted)]
    count = await (ledger.retry(ids) if chosen.action == "retry" else ledger.drop(ids))
    done = "pending again" if chosen.action == "retry" else "dropped"
    print(views.text({"count": count}) if chosen.json else f"{count} {done}")
    return Exit.OK if count or chosen.all else Exit.FAILED


def _why(record: Record) -> str:
    return f"{record.reason}: {record.detail}" if record.reason else record.detail


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else views.text(value)
