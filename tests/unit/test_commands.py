"""Commands that need no server and no running process."""

import asyncio
from pathlib import Path

import pytest

from tocsin.cli import Exit, main
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


def test_check_says_whether_servers_were_asked(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "tocsin.yaml").write_text(POSTED, encoding="utf-8")
    for option, words in (
        ([], "valid: 1 alert, 1 source, 1 channel; --online also asks the servers\n"),
        (["--online"], "valid, and the servers agree: 1 alert, 1 source, 1 channel\n"),
    ):
        assert main(["check", *option]) == Exit.OK
        assert capsys.readouterr().out == f"the configuration is {words}"


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
