"""The page about events over HTTP: its request is answered as it says, and what it posts is told."""

import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from support.tocsin import Tocsin, running
from support.waiting import until

PAGE = (Path(__file__).parents[2] / "docs" / "sources" / "http.md").read_text(encoding="utf-8")
TOKEN = "a-token-of-some-length"


def on_the_page() -> tuple[list[str], str]:
    """The words of the request as a shell takes them, and the answer that is printed below it."""
    [request, answer] = re.findall(r"^```\n(curl .*?)\n(\{.*?\})\n```", PAGE, re.MULTILINE | re.DOTALL)[0]
    return shlex.split(request.replace("\\\n", " ").replace("$EVENTS_TOKEN", TOKEN)), answer


async def answered(tocsin: Tocsin, words: list[str]) -> tuple[int, str]:
    """What the request of curl is answered with, at the address where this Tocsin listens."""
    name, *options, url = words
    given = list(zip(options[::2], options[1::2], strict=True))
    assert (name, {option for option, _ in given}) == ("curl", {"-H", "-d"}), "teach this test what else curl is told"
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    [body] = (value for option, value in given if option == "-d")
    # What curl says of a body with `-d`, whatever is in it.
    headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return await tocsin.post(urlsplit(url).path, body.encode(), **headers)


@pytest.mark.e2e
async def test_the_request_on_the_page_is_answered_as_it_says_and_told_once(tmp_path: Path) -> None:
    config = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0])
    config["web"]["listen"] = "127.0.0.1:0"
    config["ledger"] = {"path": str(tmp_path / "tocsin.db")}
    words, printed = on_the_page()
    async with running(tmp_path, config, EVENTS_TOKEN=TOKEN) as tocsin:
        await tocsin.until_ready()
        status, answer = await answered(tocsin, words)
        assert (status, json.loads(answer)) == (202, json.loads(printed))
        status, again = await answered(tocsin, words)
        assert (status, again) == (202, answer), "a repeat under the same key is taken"
        await until(lambda: tocsin.output)
        await tocsin.stop()
    [line] = tocsin.output
    assert "event backup_failed" in line
