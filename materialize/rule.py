"""Lists, adds, changes and removes rules while everything runs: `python rule.py --help`."""

import sys

from tocsin_setup.rules import main

if __name__ == "__main__":
    sys.exit(main())
