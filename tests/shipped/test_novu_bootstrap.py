"""novu/bootstrap.py, against a stand-in for what Novu's REST API does at the start of a server."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.scripts import script

bootstrap = script("novu/bootstrap.py")
EMAIL, PASSWORD = "admin@example.com", "abcdef-Aa1"


@dataclass(slots=True)
class Server:
    """What the stand-in knows."""

    url: str = ""
    accounts: dict[str, str] = field(default_factory=dict)
    workflows: dict[str, Any] = field(default_factory=dict)
    subscribers: dict[str, Any] = field(default_factory=dict)
    registration: bool = True
    calls: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: dict[str, Any], authorization: str) -> tuple[int, Any]:
        self.calls.append((method, path))
        match method, path.strip("/").split("/"):
            case "POST", ["v1", "auth", "login"]:
                known = self.accounts.get(body["email"]) == body["password"]
                return (201, {"token": "t"}) if known else (401, {"message": "Incorrect email or password provided."})
            case "POST", ["v1", "auth", "register"]:
                if not self.registration or body["email"] in self.accounts:
                    return 400, {"message": "Account creation is disabled"}
                assert body["organizationName"]
                self.accounts[body["email"]] = body["password"]
                return 201, {"token": "t"}
            case "GET", ["v1", "environments"]:
                assert authorization == "Bearer t"
                keys = [("Production", "wrong"), ("Development", "the-key")]
                return 200, [{"name": name, "apiKeys": [{"key": key}]} for name, key in keys]
        assert authorization == "ApiKey the-key"
        store = self.workflows if "workflows" in path else self.subscribers
        if method == "GET":
            found = store.get(path.rpartition("/")[2])
            return (200, found) if found else (404, {"message": "not found"})
        store[body.get("workflowId") or body["subscriberId"]] = body
        return 201, body


@pytest.fixture
def server() -> Iterator[Server]:
    model = Server()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, data = model.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            text = json.dumps({"data": data} if status < 400 else {"statusCode": status, **data}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        model.url = f"http://127.0.0.1:{http.server_port}"
        yield model
        http.shutdown()
        thread.join()


@pytest.fixture
def environ(server: Server, tmp_path: Path) -> dict[str, str]:
    return {
        "NOVU_URL": server.url,
        "NOVU_ADMIN_EMAIL": EMAIL,
        "NOVU_ADMIN_PASSWORD": PASSWORD,
        "NOVU_KEY_FILE": str(tmp_path / "novu" / "api-key"),
    }


def test_the_first_start_registers_and_makes_everything(server: Server, environ: dict[str, str]) -> None:
    assert bootstrap.main(["run"], environ) == 0
    assert server.accounts == {EMAIL: PASSWORD}
    assert server.workflows.keys() == bootstrap.WORKFLOWS.keys()
    assert [step["type"] for step in server.workflows["auction-rule"]["steps"]] == ["delay", "in_app", "email"]
    assert server.subscribers.keys() == set(bootstrap.SUBSCRIBERS)
    key = Path(environ["NOVU_KEY_FILE"])
    assert key.read_text() == "the-key\n"
    assert key.stat().st_mode & 0o777 == 0o600
    assert list(key.parent.iterdir()) == [key]


def test_a_later_start_changes_nothing_and_makes_what_is_missing(server: Server, environ: dict[str, str]) -> None:
    assert bootstrap.main(["run"], environ) == 0
    server.workflows["deployment-spike"] = {"changed": "by somebody"}
    del server.subscribers["ann"]
    server.calls.clear()
    assert bootstrap.main(["run"], environ) == 0
    assert [call for call in server.calls if call[0] == "POST"] == [
        ("POST", "/v1/auth/login"),
        ("POST", "/v2/subscribers"),
    ]
    assert server.workflows["deployment-spike"] == {"changed": "by somebody"}
    assert "ann" in server.subscribers


def test_the_script_says_what_to_do_when_nobody_is_let_in(
    server: Server, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server.registration = False
    assert bootstrap.main(["run"], environ) == 1
    said = capsys.readouterr()
    assert "401 Incorrect email or password provided." in said.err
    assert "NOVU_ADMIN_PASSWORD" in said.err
    assert PASSWORD not in said.out + said.err
    assert not Path(environ["NOVU_KEY_FILE"]).exists()


def test_the_key_is_not_printed(server: Server, environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["run"], environ) == 0
    said = capsys.readouterr()
    assert "the-key" not in said.out + said.err
    assert "workflows: made deployment-spike" in said.out


def test_a_server_that_is_not_up_yet_is_waited_for_three_minutes(environ: dict[str, str]) -> None:
    nowhere = "http://127.0.0.1:9"
    waits: list[float] = []
    clock = iter(range(0, 10_000, 60))  # a minute between two looks
    with pytest.raises(bootstrap.BootstrapError, match="no answer"):
        bootstrap.run({**environ, "NOVU_URL": nowhere}, monotonic=lambda: next(clock), wait=waits.append)
    assert len(waits) == 3


def test_the_secrets_are_enough_and_are_not_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bootstrap.main(["secrets"], {}) == 0
    text = capsys.readouterr().out
    given = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert bootstrap.main(["check"], {name: given[shown] for name, shown in bootstrap.REQUIRED.items()}) == 0
    (tmp_path / ".env").write_text(text)
    assert bootstrap.main(["secrets"], {}) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "has these secrets already" in said.err


def test_missing_secrets_are_named_all_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["check"], {"JWT_SECRET": "there"}) == 1
    said = capsys.readouterr().err
    assert "NOVU_STORE_ENCRYPTION_KEY, NOVU_SERVER_SECRET_KEY, NOVU_ADMIN_PASSWORD" in said
    assert "bootstrap.py secrets >> .env" in said


def test_an_encryption_key_of_the_wrong_length_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    environ = dict.fromkeys(bootstrap.REQUIRED, "short")
    assert bootstrap.main(["check"], environ) == 1
    assert "exactly 32 characters" in capsys.readouterr().err
