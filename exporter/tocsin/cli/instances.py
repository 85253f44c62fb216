"""`tocsin instances`: the processes that share a ledger in PostgreSQL, and what each leads."""

import asyncio
from argparse import Namespace

from tocsin.cli import Exit
from tocsin.cli.configuration import configuration
from tocsin.cli.tables import clock_time, table
from tocsin.errors import LedgerError, LedgerReason
from tocsin.ledger import postgres
from tocsin.web import views


def command(chosen: Namespace) -> Exit:
    settings = configuration(chosen).ledger
    if (server := settings.server()) is None:
        why = "only one process uses it at a time; several can share a database, see ledger.url"
        raise LedgerError(f"the ledger is the file {settings.path}: {why}", LedgerReason.LOCKED)
    instances = asyncio.run(postgres.listed(server))
    if chosen.json:
        for one in instances:
            print(views.text(views.instance(one)))
        return Exit.OK
    rows = [
        (one.name, one.address, clock_time(one.since), len(one.leads), ", ".join(sorted(one.leads)))
        for one in instances
    ]
    empty = f"no process runs alerts on {server.display}, schema {server.namespace}"
    table(("process", "address", "since", "leads", "alerts"), rows, empty=empty)
    return Exit.OK
