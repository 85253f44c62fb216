"""`python -m tocsin_producer`."""

import sys


def main() -> None:
    """The console script."""
    from tocsin_producer.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
