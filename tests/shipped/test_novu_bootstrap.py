"""novu/bootstrap.py, with a replacement for the part of Novu's REST API that it calls."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.novu_beginning import Server, serving
from support.scripts import script

bootstrap = script("novu/bootstrap.py")
EMAIL, PASSWORD = "admin@example.com", "abcdef-Aa1"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(0) as model:
        yield model


@pytest.fixture
def environ(server: Server, tmp_path: Path) -> dict[str, str]:
    return {
        "NOVU_URL": server.url,
        "NOVU_ADMIN_EMAIL": EMAIL,
        "NOVU_ADMIN_PASSWORD": PASSWORD,
        "NOVU_KEY_FILE": str(tmp_path / "novu" / "api-key"),
    }


def test_first_start_registers_and_creates_everything(
    server: Server, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main(["run"], environ) == 0
    assert server.accounts == {EMAIL: PASSWORD}
    assert server.workflows.keys() == bootstrap.WORKFLOWS.keys()
    assert [step["type"] for step in server.workflows["auction-rule"]["steps"]] == ["delay", "in_app", "email"]
    assert server.subscribers.keys() == set(bootstrap.SUBSCRIBERS)
    key = Path(environ["NOVU_KEY_FILE"])
    assert key.read_text() == "the-key\n"
    assert key.stat().st_mode & 0o777 == 0o600
    assert list(key.parent.iterdir()) == [key]
    output = capsys.readouterr()
    assert "the-key" not in output.out + output.err


def test_later_start_creates_only_what_is_missing(server: Server, environ: dict[str, str]) -> None:
    assert bootstrap.main(["run"], environ) == 0
    server.workflows["deployment-spike"] = {"changed": "by a person"}
    del server.subscribers["team-a"]
    server.calls.clear()
    assert bootstrap.main(["run"], environ) == 0
    assert [call for call in server.calls if call[0] == "POST"] == [
        ("POST", "/v1/auth/login"),
        ("POST", "/v2/subscribers"),
    ]
    assert server.workflows["deployment-spike"] == {"changed": "by a person"}
    assert "team-a" in server.subscribers


def test_refused_account_is_an_error_without_its_secret(
    server: Server, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server.registration = False
    assert bootstrap.main(["run"], environ) == 1
    output = capsys.readouterr()
    assert "401 Incorrect email or password provided." in output.err
    assert "NOVU_ADMIN_PASSWORD" in output.err
    assert PASSWORD not in output.out + output.err
    assert not Path(environ["NOVU_KEY_FILE"]).exists()


def test_waits_three_minutes_for_the_server(environ: dict[str, str]) -> None:
    nowhere = "http://127.0.0.1:9"
    waits: list[float] = []
    clock = iter(range(0, 10_000, 60))  # a minute between two attempts
    with pytest.raises(bootstrap.BootstrapError, match="no answer"):
        bootstrap.run({**environ, "NOVU_URL": nowhere}, monotonic=lambda: next(clock), wait=waits.append)
    assert len(waits) == 3


def test_secrets_are_complete_and_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bootstrap.main(["secrets"], {}) == 0
    text = capsys.readouterr().out
    given = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert bootstrap.main(["check"], {name: given[shown] for name, shown in bootstrap.REQUIRED.items()}) == 0
    (tmp_path / ".env").write_text(text)
    assert bootstrap.main(["secrets"], {}) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "already has these secrets" in output.err


def test_missing_secrets_are_named_all_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["check"], {"JWT_SECRET": "there"}) == 1
    output = capsys.readouterr().err
    assert "NOVU_STORE_ENCRYPTION_KEY, NOVU_SERVER_SECRET_KEY, NOVU_ADMIN_PASSWORD" in output
    assert "bootstrap.py secrets >> .env" in output


def test_encryption_key_of_wrong_length_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    environ = dict.fromkeys(bootstrap.REQUIRED, "short")
    assert bootstrap.main(["check"], environ) == 1
    assert "exactly 32 characters" in capsys.readouterr().err
