"""The files that the demo writes into its temporary directory: configurations with the places filled in, and a psql
that knows the way."""

import json
import re
import shlex
import stat
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from tocsin_demo.database.server import Server

_REFERENCE = re.compile(r"\$\{(\w+)(?::-[^}]*)?\}")


def filled(text: str, places: Mapping[str, str]) -> str:
    """A text of which each `${NAME}` or `${NAME:-default}` has been replaced. All of them stand within YAML's double
    quotes, and so do the values."""
    return _REFERENCE.sub(lambda found: json.dumps(places[found[1]])[1:-1], text)


def shipped(*path: str) -> str:
    """The text of a file that comes with this package."""
    return resources.files("tocsin_demo").joinpath(*path).read_text(encoding="utf-8")


def write_tocsin(directory: Path, *, port: int, database: Server, inbox: str) -> Path:
    """Tocsin's configuration, with no reference to the environment left in it: any shell can run
    `tocsin outbox list -c` with it."""
    places = {
        "TOCSIN_DIRECTORY": str(directory),
        "TOCSIN_PORT": str(port),
        "DATABASE_HOST": database.host,
        "INBOX_URL": inbox,
    }
    file = directory / "tocsin.yaml"
    file.write_text(filled(shipped("tocsin.yaml"), places), encoding="utf-8")
    return file


def write_psql(directory: Path, programs: Path, database: Server) -> Path:
    """A script that is psql, already connected to the demo's database."""
    file = directory / "psql"
    command = shlex.join(["exec", str(programs / "psql"), "--dbname", database.conninfo()])
    file.write_text(f'#!/bin/sh\n{command} "$@"\n', encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file
