"""A health check for images without curl: `python healthy.py URL [METRIC]`.

Succeeds if the URL answers 200 and, if a metric is named, its value is above zero. Otherwise it prints the answer for
`docker inspect`.
"""

import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

TIMEOUT_S = 3.0


def problem(url: str, metric: str | None = None, *, timeout: float = TIMEOUT_S) -> str | None:
    """What is wrong, or None."""
    # A proxy of the container is not for its own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            text = answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read(2000).decode('utf-8', 'replace').strip()}"
    except OSError as error:
        return f"no answer: {error}"
    if metric is not None and not _positive(text, metric):
        return f"{metric} is not above zero yet"
    return None


def _positive(page: str, metric: str) -> bool:
    lines = (line for line in page.splitlines() if line.startswith((f"{metric} ", f"{metric}{{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines) > 0


def main(arguments: Sequence[str]) -> int:
    if not 1 <= len(arguments) <= 2:
        print("usage: healthy.py URL [METRIC]", file=sys.stderr)
        return 2
    wrong = problem(*arguments)
    if wrong is not None:
        print(wrong)
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
