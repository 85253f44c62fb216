"""The part of Novu's REST API that sets up a server: accounts, environments with their keys, workflows, subscribers.

Standard library only, since it also runs in a container: ``python novu_beginning.py``.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "the-key"
PORT = 3000


@dataclass(slots=True)
class Server:
    """The state of the server."""

    url: str = ""
    accounts: dict[str, str] = field(default_factory=dict)
    workflows: dict[str, Any] = field(default_factory=dict)
    subscribers: dict[str, Any] = field(default_factory=dict)
    registration: bool = True
    calls: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: dict[str, Any], authorization: str) -> tuple[int, Any]:
        """Status and data for a request."""
        self.calls.append((method, path))
        match method, path.strip("/").split("/"):
            case "GET", ["v1", "health-check"]:
                return 200, {"status": "ok"}
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
                keys = [("Production", "wrong"), ("Development", KEY)]
                return 200, [{"name": name, "apiKeys": [{"key": key}]} for name, key in keys]
        if authorization != f"ApiKey {KEY}":
            return 401, {"message": "API Key not found"}
        if path.startswith("/v1/events/"):
            return 201, {"acknowledged": True, "status": "processed", "transactionId": body.get("transactionId", "")}
        store = self.workflows if "workflows" in path else self.subscribers
        if method == "GET":
            found = store.get(path.rpartition("/")[2])
            return (200, found) if found else (404, {"message": "not found"})
        store[body.get("workflowId") or body["subscriberId"]] = body
        return 201, body


@contextmanager
def serving(port: int, host: str = "127.0.0.1", *, log: bool = False) -> Iterator[Server]:
    """A running server. `log`: print a line per request."""
    model = Server()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, data = model.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            text = json.dumps({"data": data} if status < 400 else {"statusCode": status, **data}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *parts: Any) -> None:
            if log:
                print(*parts[1:], flush=True)

    with ThreadingHTTPServer((host, port), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        model.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield model
        finally:
            http.shutdown()
            thread.join()


if __name__ == "__main__":
    with serving(PORT, "0.0.0.0", log=True):
        threading.Event().wait()
