"""`tocsin version`."""

import json
import platform
from argparse import Namespace
from importlib.metadata import PackageNotFoundError, version

from tocsin.cli import Exit

_PARTS = ("tocsin", "psycopg", "novu-py", "prometheus-client", "pydantic")


def command(chosen: Namespace) -> Exit:
    versions = {"python": platform.python_version()}
    for part in _PARTS:
        try:
            versions[part] = version(part)
        except PackageNotFoundError:
            versions[part] = "not installed"
    if chosen.json:
        print(json.dumps(versions))
    else:
        print(f"tocsin {versions.pop('tocsin')}")
        print("\n".join(f"  {name} {number}" for name, number in versions.items()))
    return Exit.OK
