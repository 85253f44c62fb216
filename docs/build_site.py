"""Builds the documentation as a site: `make site`, see docs/decisions/0024-docs-site.md.

Pages keep their places in the repository, so that their links work on a forge and in the site. What a page links to
becomes part of the site: another page, a picture, or a text file as a page that shows it. Then the built site is
checked, since the generator lets some mistakes through.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).parents[1]
_PICTURES = (".png", ".svg")
_PARTS = ("logo", "favicon")
"""Pictures of the theme."""
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sql": "sql", ".sh": "bash"}
_PROSE = re.compile(r"^(?P<fence> *```).*?^ *```|`[^`\n]*`|\]\((?P<target>[^)\s]+)\)", re.MULTILINE | re.DOTALL)
"""A block of code, code in a line, or the target of a link."""
_ITEM = re.compile(r"(?:[-*]|\d+\.) +")
"""The mark of an item of a list."""


def build(root: Path, folder: Path) -> list[str]:
    """Build the site of a repository in `folder / "site"`, and return what is wrong with it."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    pages.mkdir(parents=True)
    text = (root / "mkdocs.yml").read_text(encoding="utf-8")
    (folder / "mkdocs.yml").write_text(text, encoding="utf-8")
    settings = yaml.safe_load(text)
    named = [*nav_pages(settings["nav"]), *(settings["theme"][key] for key in _PARTS if key in settings["theme"])]
    problems = [f"mkdocs.yml: there is no file {name}" for name in named if not (root / name).is_file()]
    problems += [*_copy(root, pages, [name for name in dict.fromkeys(named) if (root / name).is_file()])]
    documents = [file.relative_to(root).as_posix() for file in sorted((root / "docs").rglob("*.md"))]
    problems += [f"{page}: no page links to it" for page in documents if not (pages / page).exists()]
    program = Path(sys.executable).with_name("zensical")
    command: list[str | Path] = [program, "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode != 0:
        problems.append(f"zensical: {done.stdout}{done.stderr.partition('Traceback')[0]}".strip())
    return [*problems, *check(folder / "site")]


def nav_pages(nav: object) -> Iterator[str]:
    """Yield the pages of a navigation, in order."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, Mapping | list):
        for inner in nav.values() if isinstance(nav, Mapping) else nav:
            yield from nav_pages(inner)


def _copy(root: Path, to: Path, names: Sequence[str]) -> Iterator[str]:
    """Copy pages and what they link to; yield what cannot be copied."""
    waiting, known = [*names], {*names}
    while waiting:
        name = waiting.pop()
        copy = to / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".md"):
            _copy_file(root / name, copy)
            continue
        text = (root / name).read_text(encoding="utf-8")
        linked = {}
        for target in _links(text):
            path = Path(os.path.normpath(Path(name).parent / target)).as_posix()
            if not (root / path).is_file() or path.startswith(".."):
                yield f"{name}: the link {target} names no file of this repository"
                continue
            linked[target] = path
            if path not in known:
                known.add(path)
                waiting.append(path)
        copy.write_text(indented(_PROSE.sub(partial(_shown, linked), text)), encoding="utf-8")


def _links(text: str) -> Iterator[str]:
    """Yield the files that a page links to."""
    for match in _PROSE.finditer(text):
        target = (match["target"] or "").partition("#")[0]
        if target and not urlsplit(target).scheme:
            yield target


def _shown(linked: Mapping[str, str], match: re.Match[str]) -> str:
    """A link to a text file leads to the page that shows it."""
    target = match["target"] or ""
    path = linked.get(target.partition("#")[0], "")
    shows_text = path and not path.endswith((".md", *_PICTURES))
    return f"]({(Path(target).parent / _page_of(Path(path))).as_posix()})" if shows_text else match[0]


def _page_of(file: Path) -> str:
    """The name of the page that shows a text file. The generator leaves out files whose names begin with a dot."""
    return f"{file.name.lstrip('.')}.md"


def indented(text: str) -> str:
    """A page with what belongs to an item of a list indented by four spaces, and an empty line before each list.

    A forge takes the width of the mark as the indentation, and needs no empty line. Python-Markdown does, also after an
    item of several paragraphs.
    """
    lines: list[str] = []
    items: list[int] = []  # where the text of each open item begins
    fenced = apart = False  # in a block of code; whether the list has items of several paragraphs
    for line in text.splitlines():
        rest = line.lstrip(" ")
        indent = len(line) - len(rest)
        in_list = bool(items)
        while items and rest and not fenced and indent < items[-1]:
            items.pop()
        base = items[-1] if items else 0
        mark = _ITEM.match(rest) if not fenced and indent - base < 4 else None
        apart = in_list and (apart or not rest or rest.startswith("```"))
        if mark and lines and lines[-1] and (apart or not in_list):
            lines.append("")
        lines.append(" " * (4 * len(items) + max(0, indent - base)) + rest if rest else "")
        if mark:
            items.append(indent + len(mark[0]))
        fenced ^= rest.startswith("```")
    return "\n".join(lines) + "\n"


def _copy_file(file: Path, copy: Path) -> None:
    """Copy a picture, or make the page that shows a text file."""
    if file.suffix in _PICTURES:
        shutil.copyfile(file, copy)
        return
    text = file.read_text(encoding="utf-8")
    fence = "`" * (3 + max((len(run) for run in re.findall("`+", text)), default=0))
    page = f"# {file.name}\n\n{fence}{_LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
    copy.with_name(_page_of(file)).write_text(page, encoding="utf-8")


class _Page(HTMLParser):
    """What a built page has: its anchors, and the addresses it names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        """What a browser loads with the page."""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {text for name in ("id", "name") if (text := found.get(name))}
        address = found.get("src") if tag in ("img", "script", "iframe", "source") else found.get("href")
        if address and tag != "use":
            (self.links if tag == "a" else self.loads).append(address)


def check(site: Path) -> list[str]:
    """Return the links of a built site that lead nowhere, or work only where the site is at the root of a server."""
    pages = {file: _Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html") if file.name != "404.html"}
    return [
        f"{file.relative_to(site)}: {address} {why}"
        for file, page in sorted(pages.items())
        for address in dict.fromkeys([*page.links, *page.loads])
        if (why := _wrong(file, address, pages, loaded=address in page.loads))
    ]


def _wrong(file: Path, address: str, pages: Mapping[Path, _Page], *, loaded: bool) -> str:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return "is loaded from another place" if loaded and parts.scheme != "data" else ""
    if parts.path.startswith("/"):
        return "is an absolute path"
    target = Path(os.path.normpath(file.parent / unquote(parts.path))) if parts.path else file
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return "does not exist"
    anchor = unquote(parts.fragment)
    missing = anchor and target in pages and anchor not in pages[target].anchors
    return "has no such heading" if missing else ""


def main() -> int:
    """Build the site in build/, and print what is wrong."""
    folder = ROOT / "build"
    problems = build(ROOT, folder)
    print("\n".join(problems) or f"open {folder / 'site' / 'index.html'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
