"""The units of systemd are valid and tight, and fit the program. `make check-deploy` also runs them."""

import re
from pathlib import Path

import pytest

from support.systemd import PROGRAM, UNITS, analyze, installable, settings
from tocsin.cli import Exit

SERVICE = (UNITS / "tocsin.service").read_text(encoding="utf-8")
INSTANCE = (UNITS / "tocsin@.service").read_text(encoding="utf-8")

each_unit = pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda file: file.name)


@each_unit
def test_systemd_knows_every_setting(unit: Path, tmp_path: Path) -> None:
    status, output = analyze("verify", "--recursive-errors=no", "--man=no", installable(unit, tmp_path))
    assert (status, output) == (0, "")


def test_misspelt_setting_would_be_found(tmp_path: Path) -> None:
    copy = installable(UNITS / "tocsin.service", tmp_path)
    copy.write_text(copy.read_text().replace("ProtectClock=", "ProtectClocks="))
    status, output = analyze("verify", "--recursive-errors=no", "--man=no", copy)
    assert status == 1
    assert "ProtectClocks" in output


@each_unit
def test_exposure_is_at_most_1_2(unit: Path, tmp_path: Path) -> None:
    arguments = ("--offline=true", "--threshold=12", "--no-pager")
    status, output = analyze("security", *arguments, installable(unit, tmp_path))
    assert status == 0, output


def test_groups_of_system_calls_exist() -> None:
    """A misspelt group gets the same score."""
    named = [name for line in settings(SERVICE, "SystemCallFilter") for name in line.lstrip("~").split()]
    assert len(named) == 3
    for name in named:
        status, output = analyze("syscall-filter", name, "--no-pager")
        assert status == 0, output
    assert not settings(SERVICE, "SystemCallFilter")[0].startswith("~"), "the first line has to allow"


@each_unit
def test_no_comment_is_behind_a_value(unit: Path) -> None:
    """It would belong to the value."""
    assert re.findall(r"^[A-Z]\w+=.*[ \t]#.*$", unit.read_text(encoding="utf-8"), re.MULTILINE) == []


def test_instances_differ_only_in_their_paths() -> None:
    def plain(text: str) -> list[str]:
        kept = [line for line in text.splitlines() if not line.startswith(("#", "Description="))]
        return [line.replace("/%i.yaml", "/tocsin.yaml").replace("tocsin-%i", "tocsin") for line in kept]

    assert plain(INSTANCE) == plain(SERVICE)
    for key in ("StateDirectory", "WorkingDirectory", "Environment"):
        assert all("%i" in value for value in settings(INSTANCE, key)), "two instances must not share a ledger"


def test_only_an_invalid_configuration_is_not_tried_again() -> None:
    assert settings(SERVICE, "RestartPreventExitStatus") == [str(int(Exit.USAGE))]
    assert (settings(SERVICE, "Restart"), settings(SERVICE, "StartLimitIntervalSec")) == (["always"], ["0"])


def test_workers_of_the_page_replace_the_command_of_the_unit(tmp_path: Path) -> None:
    page = (UNITS.parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
    [edit] = re.findall(r"^\[Service\]\nExecStart=\nExecStart=(.*)$", page, re.MULTILINE)
    [command] = settings(SERVICE, "ExecStart")
    assert edit == f"{command} --workers 2"
    unit = installable(UNITS / "tocsin.service", tmp_path)
    folder = tmp_path / "tocsin.service.d"
    folder.mkdir()
    (folder / "override.conf").write_text(f"[Service]\nExecStart=\nExecStart={edit}\n".replace(PROGRAM, "/bin/true"))
    status, output = analyze("verify", "--recursive-errors=no", "--man=no", unit)
    assert (status, output) == (0, "")


def test_page_shows_how_to_install_the_program_of_the_unit() -> None:
    page = (UNITS.parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert f"{PROGRAM} check" in page
    assert "LoadCredential=" in page
