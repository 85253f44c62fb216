"""Files in the demo's temporary directory: configurations with the places filled in, and a connected psql."""

import json
import re
import shlex
import stat
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from tocsin_demo.database.server import Server

_REFERENCE = re.compile(r"\$\{(\w+)(?::-[^}]*)?\}")


def write(file: Path, source: str, places: Mapping[str, str]) -> Path:
    """Write a file of this package with each `${NAME}` or `${NAME:-default}` replaced. All of them are within double
    quotes of YAML, and so are the values."""
    text = resources.files("tocsin_demo").joinpath(source).read_text(encoding="utf-8")
    file.write_text(_REFERENCE.sub(lambda found: json.dumps(places[found[1]])[1:-1], text), encoding="utf-8")
    return file


def write_psql(directory: Path, database: Server) -> Path:
    """A script that is psql, connected to the demo's database."""
    file = directory / "psql"
    command = shlex.join(["exec", str(database.programs / "psql"), "--dbname", database.conninfo()])
    file.write_text(f'#!/bin/sh\n{command} "$@"\n', encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file
