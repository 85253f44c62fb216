"""`tocsin history`: the episodes of an alert, from the ledger."""

from argparse import Namespace
from collections import Counter

from tocsin.cli import Exit
from tocsin.cli.configuration import configuration, with_ledger
from tocsin.cli.tables import cell, clock_time, table
from tocsin.errors import TocsinError
from tocsin.ledger.base import Episode
from tocsin.templates import duration
from tocsin.web import views


def command(chosen: Namespace) -> Exit:
    config = configuration(chosen)
    if chosen.limit < 1:
        raise TocsinError("--limit must be at least 1")
    episodes = with_ledger(config, lambda ledger: ledger.episodes(chosen.alert, chosen.limit))
    alert = config.alerts.get(chosen.alert)
    if not episodes and alert is None:
        raise TocsinError(f"there is no alert {chosen.alert}; there are {', '.join(config.alerts)}")
    if chosen.json:
        for episode in episodes:
            print(views.text(views.episode(episode, alert)))
        return Exit.OK
    rows = [
        (
            clock_time(episode.started_at / 1000),
            _end(episode),
            "" if episode.ended_at is None else duration((episode.ended_at - episode.started_at) / 1000),
            _row(episode),
            _deliveries(episode),
        )
        for episode in episodes
    ]
    table(
        ("start", "end", "duration", "row", "deliveries"),
        rows,
        empty=f"no notifications of {chosen.alert} are kept (see ledger.history)",
    )
    return Exit.OK


def _end(episode: Episode) -> str:
    if episode.ended_at is not None:
        return clock_time(episode.ended_at / 1000)
    return "still firing" if episode.firing else "ended, time not kept"


def _row(episode: Episode) -> str:
    row = views.RowView(None, episode.columns).row(episode.row)
    return ", ".join(f"{name}={cell(value)}" for name, value in row.items() if value is not None)


def _deliveries(episode: Episode) -> str:
    by_channel: dict[str, Counter[str]] = {}
    for (channel, status), count in episode.deliveries.items():
        by_channel.setdefault(channel, Counter())[status] += count
    return "; ".join(
        f"{channel}: {', '.join(f'{count} {status}' for status, count in counts.items())}"
        for channel, counts in by_channel.items()
    )
