"""Puts the SQL files beside it into Materialize: `python setup.py --help`."""

import sys

from tocsin_setup.cli import main

if __name__ == "__main__":
    sys.exit(main())
