"""Commands that need no server, and known faults of similar programs in configuration and packaging."""

import ast
import asyncio
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.config import load_text
from support.ledger import fired, settlement, transition
from support.pipelines import CONFIG
from tocsin.cli import Exit, main
from tocsin.cli.tables import table
from tocsin.config import Config
from tocsin.errors import ConfigError
from tocsin.ledger.base import Status
from tocsin.ledger.sqlite import open_ledger

SILENT = """\
ledger: {path: none.db}
sources: {db: {type: postgres, host: h, user: u}}
alerts: {late: {source: db, relation: v}}
"""
LEVEL = """\
ledger: {path: none.db}
sources: {db: {type: postgres, host: h, user: u}}
channels: {ams: {type: alertmanager, urls: ['http://127.0.0.1:9093']}}
alerts: {late: {source: db, relation: v, notify: [ams]}}
"""
POSTED = """\
sources: {posted: {type: http, token: 0123456789abcdef}}
channels: {out: {type: console}}
alerts: {order: {source: posted, notify: [out]}}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOCSIN_CONFIG", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LEVEL, "no channel of this configuration keeps notifications: Alertmanager outputs are sent what fires now"),
        (SILENT, "no channel of this configuration keeps notifications: there is none"),
        (POSTED, "tocsin.db: there is no ledger yet; `tocsin run` makes it"),
    ],
)
@pytest.mark.parametrize("command", ["history late", "outbox list"])
def test_missing_ledger_is_explained(
    directory: Path, capsys: pytest.CaptureFixture[str], text: str, words: str, command: str
) -> None:
    (directory / "tocsin.yaml").write_text(text, encoding="utf-8")
    assert main(command.split()) == Exit.LEDGER
    assert words in capsys.readouterr().err


def test_ledger_without_channels_is_still_shown(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may have dead letters of a removed channel."""
    asyncio.run(open_ledger(directory / "none.db").close())
    (directory / "tocsin.yaml").write_text(LEVEL, encoding="utf-8")
    assert main(["outbox", "list"]) == Exit.OK
    assert capsys.readouterr().out == "no such notifications\n"


@pytest.fixture
def ids(directory: Path) -> list[str]:
    """Of a ledger with twenty dead letters of the channel `out`, oldest first."""

    async def fill() -> list[str]:
        ledger = open_ledger(directory / "tocsin.db")
        new = await fired(ledger, *map(str, range(20)), to=["out"])
        await ledger.settle([settlement(one, Status.DEAD, reason="rejected") for one in new])
        await ledger.close()
        return [one.id for one in new]

    (directory / "tocsin.yaml").write_text(POSTED, encoding="utf-8")
    return asyncio.run(fill())


def test_ids_of_a_list_are_accepted_by_the_other_actions(
    ids: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eighty columns have room for how an id begins."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["outbox", "list"]) == Exit.OK
    listed = re.findall(r"(?m)^ *([0-9a-f]{12})\b", capsys.readouterr().out)
    assert [one for one in reversed(ids) if one.startswith(tuple(listed))] == ids[::-1]
    assert main(["outbox", "show", listed[0]]) == Exit.OK
    assert ids[-1] in capsys.readouterr().out
    assert main(["outbox", "retry", listed[0], ids[0]]) == Exit.OK
    assert main(["outbox", "retry", listed[0]]) == Exit.FAILED
    assert capsys.readouterr() == ("2 pending again\n0 pending again\n", f"{ids[-1]} is pending: nothing was done\n")


def test_every_command_writes_times_alike(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As the API does: what one command shows can be searched in the output of another."""
    silence = ["silence", "add", 'alertname="late"', "--for", "2h", "--reason", "a move"]
    shown = ["outbox list", f"outbox show {ids[0]}", "history late", f"explain late {transition('0').fingerprint}"]
    Path("tocsin.yaml").write_text(POSTED.replace("order:", "late:"), encoding="utf-8")
    for command in [silence, *map(str.split, shown)]:
        assert main(command) == Exit.OK
        times = re.findall(r"\d{4}-\d\d-\d\d\S*", capsys.readouterr().out)
        assert times, command
        wrong = [one for one in times if not re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z[,:.]?", one)]
        assert wrong == [], command


def test_mistyped_silence_is_made_with_a_warning(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ids
    assert main(["silence", "add", 'alertname="oder"', "--for", "2h", "--reason", "a move"]) == Exit.OK
    out, err = capsys.readouterr()
    assert 'holds back alertname="oder"' in out
    assert err == ('warning: no alert of the configuration matches alertname="oder"; did you mean order?\n')


def test_control_characters_of_a_silence_are_not_written_to_a_terminal(
    ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ids
    assert main(["silence", "add", 'alertname="or\x1b[31m"', "--for", "1h", "--reason", "a move"]) == Exit.OK
    out, err = capsys.readouterr()
    assert main(["silence", "end", out.split()[0]]) == Exit.OK
    assert main(["silence", "list", "--all"]) == Exit.OK
    listed = capsys.readouterr().out
    assert "\x1b" not in out + err + listed
    assert "ended 0 ago" not in listed


def test_id_stays_in_one_line_of_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it cannot be copied."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    row = ["3f9c0a7be8d1", "pending", "people", "late_orders", "resolved", "2026-12-01T00:09:01.712Z", 12]
    table(["id", "status", "channel", "alert", "kind", "at", "attempts", "why"], [[*row, "silenced: " * 5]], empty="")
    assert "3f9c0a7be8d1" in capsys.readouterr().out


def test_every_unusable_id_is_named_and_nothing_done(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    several = next(one for one in "0123456789abcdef" if sum(id_.startswith(one) for id_ in ids) > 1)
    assert main(["outbox", "drop", "nosuch", several, ids[0]]) != Exit.OK
    assert f"there is no notification nosuch; {several} begins several ids" in capsys.readouterr().err
    assert main(["outbox", "list", "--dropped"]) == Exit.OK
    assert capsys.readouterr().out == "no such notifications\n"


def test_all_takes_filters_and_never_what_is_pending(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outbox", "retry", "--all", "--reason", "timeout"]) == Exit.OK
    assert main(["outbox", "retry", "--all", "--reason", "rejected", "--alert", "late"]) == Exit.OK
    assert main(["outbox", "drop", "--all"]) == Exit.OK
    assert capsys.readouterr() == (
        "0 pending again\n20 pending again\n0 dropped\n",
        "--all drops dead letters only; 20 notifications are pending: name what to drop by id\n",
    )
    assert main(["outbox", "drop", "--all", "--reason", "bad"]) != Exit.OK
    assert "there is no reason 'bad'; there are connection, timeout" in capsys.readouterr().err
    assert main(["outbox", "drop", ids[0], "--channel", "out"]) != Exit.OK
    assert "use them with --all" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list --channel nosuch", "list --alert nosuch", "retry --all --channel nosuch"])
def test_unknown_name_is_not_an_empty_list(ids: list[str], capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(["outbox", *command.split()]) != Exit.OK
    assert re.search(r"there is no (channel|alert) 'nosuch'; there are (out|order)", capsys.readouterr().err)


def test_check_says_whether_servers_were_asked(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "tocsin.yaml").write_text(POSTED, encoding="utf-8")
    for option, words in (
        ([], "valid: 1 alert, 1 source, 1 channel; --online also asks the servers\n"),
        (["--online"], "valid, and the servers agree: 1 alert, 1 source, 1 channel\n"),
    ):
        assert main(["check", *option]) == Exit.OK
        assert capsys.readouterr().out == f"the configuration is {words}"


def test_configuration_may_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POSTED.encode())))
    assert main(["check", "-c", "-"]) == Exit.OK
    assert "valid: 1 alert" in capsys.readouterr().out


def test_file_without_its_option_is_explained(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "mine.yaml").touch()
    with pytest.raises(SystemExit):
        main(["run", "mine.yaml"])
    assert "unrecognized arguments: mine.yaml; name the configuration with -c mine.yaml" in capsys.readouterr().err


def test_version_is_printed_by_option_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    printed = [(main([written]), capsys.readouterr().out) for written in ("version", "--version")]
    assert printed[0] == printed[1]
    assert printed[0][1].startswith("tocsin ")


@pytest.mark.parametrize(
    "action", ["list --dead", "show 3f9c0a7be8d14c55a1f0c2d4e6b8a901", "retry --all", "drop --all"]
)
def test_outbox_action_has_an_example(capsys: pytest.CaptureFixture[str], action: str) -> None:
    with pytest.raises(SystemExit):
        main(["outbox", action.split(maxsplit=1)[0], "--help"])
    assert f"\n  tocsin outbox {action}\n" in capsys.readouterr().out


# Known faults of similar programs.


ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "exporter" / "tocsin"
MAIL = {"type": "email", "host": "mail.example.com", "from": "a@example.com", "recipients": ["b@example.com"]}


def loaded(directory: Path, channel: dict[str, Any], **more: Any) -> Config:
    """A configuration with this channel. Words with a meaning in YAML are quoted, as if they came from variables."""
    config = yaml.safe_load(CONFIG)
    name = next(iter(config["channels"]))
    return load_text(directory, yaml.safe_dump({**config, "channels": {name: channel}, **more}))


@pytest.mark.parametrize("word", ["False", "false", "FALSE", "no", "off", "0"])
def test_word_for_no_is_read_as_false(word: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, {"type": "console"}, web={"admin": word}).web.admin is False


@pytest.mark.parametrize("word", ["", "perhaps", "None"])
def test_unclear_boolean_word_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.admin"):
        loaded(tmp_path, {"type": "console"}, web={"admin": word})


@pytest.mark.parametrize("word", ["False", "no", "", "ssl"])
def test_unknown_mail_security_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.out\.security"):
        loaded(tmp_path, {**MAIL, "security": word})


@pytest.mark.parametrize("number", [0, -1])
def test_max_attempts_below_one_is_refused(number: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.out\.max_attempts"):
        loaded(tmp_path, {"type": "console", "max_attempts": number})
    assert loaded(tmp_path, {"type": "console", "max_attempts": 1}).channels["out"].settings.max_attempts == 1


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are evaluated when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*child.args.defaults, *child.args.kw_defaults]
            yield from (found for default in defaults if default for found in [default, *at_import(default)])
        else:
            yield child
            yield from at_import(child)


def test_import_does_not_read_the_environment() -> None:
    def reads(file: Path) -> bool:
        nodes = at_import(ast.parse(file.read_text(encoding="utf-8")))
        return any(isinstance(each, ast.Attribute) and each.attr in {"environ", "getenv"} for each in nodes)

    assert [file for file in PACKAGE.rglob("*.py") if reads(file)] == []


def test_oldest_promised_python_is_the_checked_one() -> None:
    project = tomllib.loads((ROOT / "exporter" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in project["classifiers"]
    assert tools["mypy"]["python_version"] == oldest
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
