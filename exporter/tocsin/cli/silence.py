"""`tocsin silence`: hold back notifications for a time."""

import getpass
import secrets
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from tocsin.cli import Exit
from tocsin.cli.configuration import configuration, with_ledger
from tocsin.cli.tables import cell, clock_time, printable, table
from tocsin.config import Config
from tocsin.errors import TocsinError
from tocsin.ledger.base import Filter, Ledger
from tocsin.settings import duration_text
from tocsin.silences import Asked, Matchers, Silence, State, parse
from tocsin.web import views
from tocsin.web.base import Rows
from tocsin.web.matching import Matched, matched


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    work = {"add": _add, "list": _list, "show": _show, "end": _end, "preview": _preview}[chosen.action]
    return with_ledger(config, lambda ledger: work(ledger, config, chosen))


async def _add(ledger: Ledger, config: Config, chosen: Namespace) -> Exit:
    wanted = {
        "matchers": chosen.matchers,
        "reason": chosen.reason,
        "for": chosen.duration,
        "starts_at": chosen.start,
        "ends_at": chosen.until,
        "by": chosen.by or _me(),
    }
    made = Asked.model_validate(wanted).made(secrets.token_hex(6), ledger.now())
    await ledger.silence(made)
    found = await _matched(ledger, config, made.matchers)
    if chosen.json:
        print(views.text({**await _view(ledger, made), "preview": found.json(made.matchers)}))
        return Exit.OK
    print(f"{made.id} holds back {printable(str(made.matchers))}")
    begins = f"from {clock_time(made.starts_at)} " if made.state(ledger.now()) is State.PENDING else ""
    print(f"{begins}until {clock_time(made.ends_at)} ({duration_text(round(made.ends_at - made.starts_at))})")
    print(_sentence(found))
    _warn(found)
    return Exit.OK


async def _list(ledger: Ledger, _: Config, chosen: Namespace) -> Exit:
    now, held = ledger.now(), await ledger.held()
    found = await ledger.list_silences()
    shown = [one for one in found if chosen.all or one.state(now) is not State.EXPIRED or one.id in held]
    if chosen.json:
        for one in shown:
            print(views.text(views.silence(one, held.get(one.id, {}), now)))
        return Exit.OK
    rows = [
        (
            one.id,
            one.state(now),
            one.matchers,
            _when(one, now),
            sum(held.get(one.id, {}).values()),
            f"{one.reason} ({one.by})" if one.by else one.reason,
        )
        for one in shown
    ]
    more = len(found) - len(shown)
    empty = f"no silences; {more} that ended are shown with --all" if more else "no silences"
    table(("id", "state", "matchers", "when", "held", "reason"), rows, empty=empty)
    return Exit.OK


async def _show(ledger: Ledger, config: Config, chosen: Namespace) -> Exit:
    found = await _named(ledger, chosen.id)
    shown = await _view(ledger, found)
    records = await ledger.find(Filter(silence=found.id, limit=chosen.limit))
    if chosen.json:
        listed = [views.notification(record, config.alerts.get(record.alert)) for record in records]
        print(views.text({**shown, "notifications": listed}))
        return Exit.OK
    shown["held"] = _counts(shown["held"])
    table(("field", "value"), [(name, cell(value)) for name, value in shown.items()], empty="")
    if records:
        print()
        columns = ("held", "channel", "alert", "kind", "at", "labels")
        rows = [
            (
                record.id[:12],
                record.channel,
                record.alert,
                record.kind,
                clock_time(record.at / 1000),
                ", ".join(
                    f"{name}={value}"
                    for name, value in views.RowView(config.alerts.get(record.alert), record.columns)
                    .shown(record.row)["labels"]
                    .items()
                ),
            )
            for record in records
        ]
        table(columns, rows, empty="")
    return Exit.OK


async def _end(ledger: Ledger, _: Config, chosen: Namespace) -> Exit:
    found = await _named(ledger, chosen.id)
    ended = await ledger.end_silence(found.id)
    shown = await _view(ledger, await _named(ledger, found.id))
    if chosen.json:
        print(views.text(shown))
    elif not ended:
        print(f"{found.id} had ended already")
    elif held := sum(shown["held"].values()):
        print(f"{found.id} ended; it held {held}, which a running Tocsin sends or drops within a second")
    else:
        print(f"{found.id} ended; it held nothing")
    return Exit.OK if ended else Exit.FAILED


async def _preview(ledger: Ledger, config: Config, chosen: Namespace) -> Exit:
    matchers = parse(chosen.matchers)
    found = await _matched(ledger, config, matchers)
    if chosen.json:
        print(views.text(found.json(matchers)))
        return Exit.OK
    print(_sentence(found))
    _warn(found)
    if found.rows:
        print()
        rows = [
            (row["alert"], row["started_at"], ", ".join(f"{k}={v}" for k, v in row["labels"].items()))
            for row in found.rows
        ]
        table(("alert", "started", "labels"), rows, empty="")
        if (more := found.firing.total() - len(rows)) > 0:
            print(f"and {more} more")
    return Exit.OK


async def _matched(ledger: Ledger, config: Config, matchers: Matchers) -> Matched:
    rows: list[Rows] = []
    for name, alert in config.row_alerts.items():
        if (stored := await ledger.load(name)) is not None:
            rows.append(Rows(alert, stored.columns, stored.firings))
    return await matched(matchers, rows, ledger, config.alerts)


async def _named(ledger: Ledger, given: str) -> Silence:
    """The silence with this id, or beginning of one. Raises TocsinError."""
    found = [one for one in await ledger.list_silences() if one.id.startswith(given)]
    if len(found) != 1:
        raise TocsinError(f"{given} begins several ids" if found else f"there is no silence {given}")
    return found[0]


async def _view(ledger: Ledger, silence: Silence) -> dict[str, Any]:
    return views.silence(silence, (await ledger.held()).get(silence.id, {}), ledger.now())


def _when(silence: Silence, now: float) -> str:
    match silence.state(now):
        case State.ACTIVE:
            return f"{_rounded(silence.ends_at - now)} left"
        case State.PENDING:
            return f"in {_rounded(silence.starts_at - now)}, for {_rounded(silence.ends_at - silence.starts_at)}"
    return f"ended {_rounded(max(now - silence.ends_at, 1))} ago"


def _rounded(seconds: float) -> str:
    step = 60 if seconds >= 120 else 1
    return duration_text(round(seconds / step) * step)


def _sentence(found: Matched) -> str:
    firing, pending = found.firing.total(), found.pending.total()
    if not firing and not pending:
        return "nothing matches now"
    rows = f"{firing} firing row{'s' if firing != 1 else ''}" + (f" ({_counts(found.firing)})" if firing else "")
    sent = f"{pending} pending notification{'s' if pending != 1 else ''}"
    return f"{rows} and {sent}{f' ({_counts(found.pending)})' if pending else ''} match now"


def _warn(found: Matched) -> None:
    for warning in found.warnings:
        print(f"warning: {printable(warning)}", file=sys.stderr)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may have a user without a name
        return ""
