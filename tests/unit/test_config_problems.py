"""Every kind of mistake in `tocsin.yaml`, its place and its text: `golden/problems.txt` has them all."""

import asyncio
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from support.config import FakeSource, load_text
from tocsin.config import load
from tocsin.config.check import check_online
from tocsin.config.problems import TEXTS, problem
from tocsin.errors import ConfigError, Problem
from tocsin.model import Column, Row

GOLDEN = Path(__file__).parent / "golden" / "problems.txt"
BEGIN = """\
sources: {db: {type: postgres, host: h, user: u}}
channels: {out: {type: console}}
alerts:
  late: {source: db, relation: v, notify: [out]}
"""
ENVIRON = {"WORD": "hunter2", "LETTER": "e"}
TEXT, INT8, JSONB, TIMESTAMPTZ = 25, 20, 3802, 1184
SPIKE: tuple[dict[str, int], Row] = {"team": TEXT, "count": INT8, "note": TEXT}, ("a", "3", 'a "quote"\n')
ONLINE: dict[str, tuple[dict[str, int], Row]] = {
    "rows": (
        {
            "organization": TEXT,
            "severity": TEXT,
            "deployment_cnt": INT8,
            "since": TIMESTAMPTZ,
            "data": JSONB,
            "a.b": TEXT,
        },
        ("Acme", None, "12", "2026-01-02 03:04:05+00", "{}", ""),
    ),
    "events": ({"id": INT8, "severity": TEXT, "data": JSONB}, ("7", "page", '{"customer": "c1"}')),
    **dict.fromkeys(("webhook", "bare_webhook"), SPIKE),
}
"""Configuration -> columns of its source, and the row that it has."""


def problems(directory: Path, text: str) -> Sequence[Problem]:
    try:
        load_text(directory, text, **ENVIRON)
    except ConfigError as error:
        return error.problems
    return ()


def in_place(base: str, text: str) -> str:
    """The configuration with a text in the place of `@`: as lines where `@` is alone in its line."""
    indent = re.search(r"^( *)@$", base, re.MULTILINE)
    return base.replace(indent[0], textwrap.indent(text, indent[1])) if indent else base.replace("@", text)


def test_each_mistake_has_its_place_and_text(tmp_path: Path) -> None:
    """Write the texts again with TOCSIN_WRITE_GOLDEN=1, and read the difference."""
    golden = GOLDEN.read_text(encoding="utf-8")
    codes: set[str] = set()
    bases = dict(re.findall(r"^=== (\w+)\n(.*?\n)\n", golden, re.DOTALL | re.MULTILINE))

    def found(kind: str, online: str | None, text: str) -> Sequence[Problem]:
        if kind == "problem":
            return [problem(**yaml.safe_load(text))]
        if kind == "warning":
            return load_text(tmp_path, text).warnings
        config = in_place(bases[kind], text)
        if online is None:
            return problems(tmp_path, config)
        columns, row = ONLINE[kind]
        known = tuple(Column(name=name, oid=oid) for name, oid in columns.items())
        source = FakeSource(known, row if online == "one" else None)
        return asyncio.run(check_online(load_text(tmp_path, config), {"db": source}, {}))

    def answered(case: re.Match[str]) -> str:
        several = found(case["kind"], case["online"], case["text"].replace("\\0", "\0"))
        codes.update(one.code for one in several)
        lines = "".join(f"=> {one.code} | {one}\n".replace(f"{tmp_path}/", "") for one in several)
        return case["head"] + (lines or "=> valid\n")

    pattern = r"(?P<head>^--- (?P<kind>\w+)(?:, (?P<online>one|no) row)?\n(?P<text>.*?)\n)(?:=> .*?\n)+"
    text = re.sub(pattern, answered, golden, flags=re.DOTALL | re.MULTILINE)
    assert "hunter" not in text
    assert text.count("HUSH") == golden.count("{key: HUSH-0001}")
    if os.environ.get("TOCSIN_WRITE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == golden
    assert TEXTS.keys() - codes == {"template", "too_deep"}


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    assert [one.code for one in problems(tmp_path, "[" * 500)] == ["too_deep"]


def test_incomplete_channel_is_found_at_the_alert(tmp_path: Path) -> None:
    """The rest of its text is the channel's own."""
    text = BEGIN.replace("{type: console}", "{type: novu, api_key: k}")
    [found] = problems(tmp_path, text)
    assert (found.code, found.path, found.line) == ("incomplete_channel", "alerts.late.notify[0]", 4)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin1.yaml").write_bytes(b"a: \xff")
    for name in ("missing.yaml", ".", "latin1.yaml", "\0"):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name, {})
        assert [one.code for one in caught.value.problems] == ["unreadable"]
        assert str(tmp_path) in caught.value.problems[0].file


def test_problem_in_alert_file_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("# more\nlate: {source: db, relation: v}\nx:\n  source: db\n  relatoin: v\n")
    (tmp_path / "odd.yaml").write_text("- a\n")
    found = problems(tmp_path, BEGIN + "alert_files: ['*e.yaml', odd.yaml]\n")
    assert [(Path(one.file).name, one.line, one.code) for one in found] == [
        ("more.yaml", 2, "duplicate_key"),
        ("more.yaml", 5, "unknown_key"),
        ("odd.yaml", None, "wrong_type"),
    ]
