"""A health check for images without curl: `python healthy.py URL [METRIC]`.

Succeeds if the URL answers 200 and, if a metric is named, its value is above zero. Otherwise it prints the answer for
`docker inspect`.
"""

import http.client
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

TIMEOUT_S = 3.0


def problem(url: str, metric: str | None = None, *, timeout: float = TIMEOUT_S) -> str | None:
    """What is wrong, or None."""
    try:
        text = _answer(url, timeout)
    except urllib.error.HTTPError as error:
        return f"{error.code}: {error.read(2000).decode('utf-8', 'replace').strip()}"
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    if metric is not None and not _positive(text, metric):
        return f"{metric} is not above zero yet"
    return None


def _answer(url: str, timeout: float) -> str:
    """Get a page of this container, with TLS if the port has it by now. The certificate need not have this name."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    # A proxy of the container is not for its own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return str(answer.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException):
        if not url.startswith("http://127.0.0.1:"):
            raise
        return _answer(url.replace("http:", "https:", 1), timeout)


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
