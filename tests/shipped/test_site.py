"""The documentation as a site: it builds, its links lead somewhere, every page is in its navigation, and the commands
on its pages are commands of Tocsin."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import build_site
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.browser import CHROMIUM, chromium, new_tab
from support.pages import DOCS, ROOT
from support.waiting import until_some
from tocsin.cli.arguments import arguments_parser

PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
LITTLE = """
site_name: Little
docs_dir: pages
site_dir: site
use_directory_urls: false
theme: {font: false}
nav: [README.md, docs/gone.md, docs/here.md]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The site of this repository, and what is wrong with it."""
    folder = tmp_path_factory.mktemp("site") / "build"
    problems = build_site.build(ROOT, folder)
    return folder / "site", problems


@pytest.mark.xdist_group("site")
def test_site_has_no_problems(built: tuple[Path, list[str]]) -> None:
    site, problems = built
    assert problems == []
    shown = (site / "exporter" / "tocsin.example.yaml.html").read_text(encoding="utf-8")
    assert "snapshot_timeout" in shown, "a linked file is a page of the site"


@pytest.mark.xdist_group("site")
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH")
async def test_site_is_searched_and_fits_a_phone(built: tuple[Path, list[str]], tmp_path: Path) -> None:
    application = web.Application()
    application.router.add_static("/", built[0])
    server = TestServer(application)
    with chromium(tmp_path) as browser:
        async with server, new_tab(browser) as tab:
            await tab.watch()
            await tab.open(str(server.make_url("/index.html")))
            await tab.click(".md-search__button", "\n    Search\n  ")
            roots = "[...document.querySelectorAll('div')].map((one) => one.shadowRoot).filter(Boolean)"
            field = f"{roots}.some((root) => {{ root.querySelector('input')?.focus(); return root.activeElement; }})"
            await until_some(lambda: tab.run(field), "the field of the search")
            for letter in "pgbouncer":
                await tab.press(letter, ord(letter.upper()), letter)
            result = f"{roots}.some((root) => root.textContent.includes('PgBouncer between Tocsin and PostgreSQL'))"
            await until_some(lambda: tab.run(result), "the page about PgBouncer")
            await tab.resize(360, 800)
            for page in ("index", "docs/settings", "docs/tutorial", "docs/how-to/slack"):
                await tab.open(str(server.make_url(f"/{page}.html")))
                assert await tab.run("document.documentElement.scrollWidth") <= 360, page
            assert tab.problems == []


HERE = """# Here

## Below

[up](../README.md#no-such-heading), [away](/docs/here.html), [folder](deep), [out](../../x), ![one](one.png),
![two](https://example.com/two.png), [fine](https://example.com), [text](../code.py)

```
[in code](x.md)
```
"""


def test_mistakes_on_pages_are_found(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "mkdocs.yml").write_text(LITTLE)
    (root / "code.py").write_text('"""A program."""\n')
    (root / "README.md").write_text("# Home\n\n[a](docs/here.md#below), [b](code.py), `[c](not/a/link.md)`\n")
    (root / "docs" / "orphan.md").write_text("# Orphan\n")
    (root / "docs" / "here.md").write_text(HERE)
    found = build_site.build(root, tmp_path / "build")
    assert [problem for problem in found if not problem.startswith("zensical: ") and "gone.md does" not in problem] == [
        "mkdocs.yml: there is no file docs/gone.md",
        "docs/here.md: the link /docs/here.html names no file of this repository",
        "docs/here.md: the link deep names no file of this repository",
        "docs/here.md: the link ../../x names no file of this repository",
        "docs/here.md: the link one.png names no file of this repository",
        "docs/orphan.md: no page links to it",
        "docs/here.html: ../index.html#no-such-heading has no such heading",
        "docs/here.html: /docs/here.html is an absolute path",
        "docs/here.html: deep does not exist",
        "docs/here.html: ../../x does not exist",
        "docs/here.html: one.png does not exist",
        "docs/here.html: https://example.com/two.png is loaded from another place",
    ]
    assert "A program." in (tmp_path / "build" / "site" / "code.py.html").read_text(encoding="utf-8")


ON_A_FORGE = """Text:
- a
  more
  ```sql
  - not an item
  ```
- b
  - c

1. one

   - deep
2. two:

   ```yaml
   x:
     - y
   ```

After
"""
IN_THE_SITE = """Text:

- a
    more
    ```sql
    - not an item
    ```

- b

    - c

1. one

    - deep

2. two:

    ```yaml
    x:
      - y
    ```

After
"""


def test_lists_are_indented_for_the_site() -> None:
    assert build_site.indented(ON_A_FORGE) == IN_THE_SITE
    assert build_site.indented("```\n1. code\n   more\n```\n") == "```\n1. code\n   more\n```\n"


def test_navigation_has_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = [*build_site.nav_pages(nav)]
    assert len(listed) == len({*listed})
    pages = {page.relative_to(ROOT).as_posix() for page in DOCS.rglob("*.md")}
    assert {page for page in pages if not re.search(r"/decisions/\d", page)} - {*listed} == set()


# Commands.


def commands() -> Iterator[tuple[str, bool]]:
    """The commands on the pages, and whether each is whole: within a sentence it may lack arguments."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^ *```(?:|bash|sh|console)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^ *(?:\$ )?(?:[A-Z_]+=\S* )*tocsin ((?!:).*)", block, re.MULTILINE):
                yield line, True
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
        yield from ((line, False) for line in re.findall(r"`tocsin ([^`]+)`", prose))


def wrong(line: str, *, whole: bool) -> str:
    """What the command line refuses; empty for nothing."""
    words = shlex.split(line.replace(" N", " 1"), comments=True)
    end = next((i for i, word in enumerate(words) if word in {"|", ">", "&&", ";", "&", ">>"}), len(words))
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            arguments_parser().parse_args(words[:end])
        except SystemExit as status:
            message = errors.getvalue().rpartition("error: ")[2]
            lacks = "are required" in message or "is required" in message
            return "" if status.code == 0 or (lacks and not whole) else message
    return ""


def test_commands_on_pages_are_commands_of_tocsin() -> None:
    found = {*commands()}
    assert {line: why for line, whole in found if (why := wrong(line, whole=whole))} == {}
    assert len(found) > 50
    assert "invalid choice" in wrong("alert", whole=False)
    assert "unrecognized arguments" in wrong("check --offline", whole=False)
    assert "are required" in wrong("notify shop", whole=True)
