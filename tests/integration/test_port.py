"""The port with passwords, tokens and roles, and names of the host, over real connections."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from support.port import ADMIN_TOKEN, ANN, BOB, RETRY, TOKEN, TOKENS, USERS, basic, hashed, listening
from support.web import DEAD
from tocsin import repeats
from tocsin.web.access import Rules

HEALTHY = Path(__file__).parents[2] / "compose" / "healthy.py"
PATHS = ("/", "/static/page.js", "/metrics", "/api/v1/status", "/api/v1/transitions", "/nothing")


# Logins.


async def test_everything_but_probes_needs_the_login(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS) as port:
        for path in PATHS:
            async with port.asked("GET", path) as response:
                assert response.status == 401, path
                assert response.headers["WWW-Authenticate"] == 'Basic realm="Tocsin", charset="UTF-8"'
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            status, _ = await port.get(path, Authorization=basic("ann", "wrong"))
            assert status in {401, 429}
        for path in ("/healthz", "/-/healthy", "/readyz", "/-/ready"):
            assert (await port.get(path))[0] == 200, path
        assert (await port.get("/metrics", Authorization=ANN))[0] == 200


async def test_reasons_of_readiness_need_the_login(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS) as port:
        port.process.reasons = ["source mz: db.internal: connection refused"]
        assert await port.get("/readyz") == (503, "Tocsin is not ready; the reasons need a login.\n")
        assert await port.get("/readyz", Authorization=ANN) == (503, f"{port.process.reasons[0]}\n")
        assert (await port.get("/readyz", Authorization=basic("ann", "wrong")))[0] == 401


@pytest.mark.parametrize(
    "password", ["pässwörd 🔔", "with:colon", "x" * 72, ""], ids=["unicode", "colon", "72 bytes", "empty"]
)
async def test_odd_passwords_work(tmp_path: Path, password: str) -> None:
    async with listening(tmp_path, {"basic_auth_users": {"jörg": hashed(password)}}) as port:
        assert (await port.get("/metrics", Authorization=basic("jörg", password)))[0] == 200
        assert (await port.get("/metrics", Authorization=basic("jörg", f"{password[1:]}y")))[0] == 401


async def test_password_beyond_72_bytes_is_cut_as_in_go(tmp_path: Path) -> None:
    """The package refuses them with an exception; htpasswd and exporter-toolkit cut them."""
    async with listening(tmp_path, {"basic_auth_users": {"ann": hashed("x" * 72)}}) as port:
        assert (await port.get("/metrics", Authorization=basic("ann", "x" * 100)))[0] == 200


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!!", "Basic YQ==", "Basic /zr/", "Bearer", "Bearer ", "Digest a", "", "Bearer \u00fc"],
)
async def test_odd_login_is_an_error_of_the_client(tmp_path: Path, header: str) -> None:
    async with listening(tmp_path, USERS, **TOKENS) as port:
        assert (await port.get("/metrics", Authorization=header))[0] == 401


async def test_tokens_and_users_have_their_roles(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS, admin=True, admins=["ann"], **TOKENS) as port:
        for login, admin in (
            (ANN, True),
            (BOB, False),
            (f"Bearer {TOKEN}", False),
            (f"bearer {ADMIN_TOKEN}", True),
        ):
            port.process.outbox.records = [DEAD]
            status, text = await port.get("/api/v1/status", Authorization=login)
            assert (status, json.loads(text)["admin"]) == (200, admin)
            async with port.asked("POST", RETRY, Authorization=login) as response:
                assert response.status == (200 if admin else 403)
            async with port.asked("POST", "/-/reload", Authorization=login) as response:
                assert response.status == (200 if admin else 403)
        assert port.process.reloads == 2
        for login in (f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", basic("ann", TOKEN), basic("", "")):
            async with port.asked("POST", RETRY, Authorization=login) as response:
                assert response.status == 401


async def test_admin_false_allows_no_one_to_change(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS, admins=["ann"], **TOKENS) as port:
        for login in (ANN, f"Bearer {ADMIN_TOKEN}"):
            async with port.asked("POST", RETRY, Authorization=login) as response:
                assert response.status == 403
                assert "web: {admin: true}" in await response.text()


async def test_foreign_page_cannot_change_with_a_browsers_login(tmp_path: Path) -> None:
    """A browser sends a stored password with every request to this port, from any page."""
    async with listening(tmp_path, USERS, admin=True, admins=["ann"]) as port:
        several: tuple[dict[str, Any], ...] = (
            {"Origin": "http://evil.example.com"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site", "Origin": port.url},
        )
        for headers in several:
            async with port.asked("POST", RETRY, Authorization=ANN, **headers) as response:
                assert (response.status, port.process.rescans) == (403, 0), headers
        async with port.asked("POST", RETRY, Authorization=ANN, Origin=port.url) as response:
            assert response.status == 200


async def test_events_keep_the_login_of_their_source(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS, **TOKENS) as port:
        async with port.asked("POST", "/api/v1/events/posted", Authorization="Bearer of-the-source") as response:
            assert response.status == 202
        assert port.process.received[0][1]["authorization"] == "Bearer of-the-source"


async def test_failed_logins_of_an_address_are_limited(tmp_path: Path) -> None:
    """Those who logged in before are not affected, and no password is checked any more."""
    async with listening(tmp_path, USERS, **TOKENS) as port:
        assert (await port.get("/metrics", Authorization=BOB))[0] == 200
        found = [(await port.get("/metrics", Authorization=basic("ann", str(n))))[0] for n in range(11)]
        assert found == [401] * 10 + [429]
        async with port.asked("GET", "/metrics", Authorization=ANN) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 7
        for login in (BOB, f"Bearer {TOKEN}"):
            assert (await port.get("/metrics", Authorization=login))[0] == 200
        assert (await port.get("/metrics", Authorization="Bearer wrong"))[0] == 429


async def test_failed_login_is_logged_without_what_was_typed(tmp_path: Path) -> None:
    repeats.flush()  # those of other tests
    async with listening(tmp_path, USERS) as port:
        with capture_logs() as logs:
            await port.get("/metrics", Authorization=basic("my p4ssword", "my p4ssword"))
        [line] = [one for one in logs if one["event"] == "client refused"]
        assert (line["address"], line["why"]) == ("127.0.0.1", "the user or the password is wrong")
        assert "p4ssword" not in str(logs)


async def test_expensive_hash_does_not_hold_the_port(tmp_path: Path) -> None:
    """Its check takes a second or two; meanwhile others are answered."""
    slow = "$2b$14$" + hashed("x")[7:]
    async with listening(tmp_path, {"basic_auth_users": {"ann": slow, "bob": hashed("bobbing")}}) as port:
        assert (await port.get("/metrics", Authorization=BOB))[0] == 200
        checking = asyncio.create_task(port.get("/metrics", Authorization=ANN))
        answered = 0
        while not checking.done():
            assert (await port.get("/metrics", Authorization=BOB))[0] == 200
            answered += 1
        assert (await checking)[0] == 401
        assert answered >= 3


async def test_rate_limit_of_the_file_counts_all_but_liveness(tmp_path: Path) -> None:
    async with listening(tmp_path, {"rate_limit": {"burst": 3, "interval": "1h"}}) as port:
        assert [(await port.get("/metrics"))[0] for _ in range(4)] == [200, 200, 200, 429]
        assert (await port.get("/healthz"))[0] == 200


async def test_headers_of_the_file_are_on_every_answer(tmp_path: Path) -> None:
    headers = {"Strict-Transport-Security": "max-age=31536000", "X-Frame-Options": "deny"}
    async with listening(tmp_path, {"http_server_config": {"headers": headers}, **USERS}) as port:
        for login in ("", ANN):
            async with port.asked("GET", "/", Authorization=login) as response:
                assert headers.items() <= dict(response.headers).items()
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]


# The name of the host.


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:8627", "127.0.0.1.evil.example.com", "a.b."])
async def test_foreign_name_of_the_host_is_refused(tmp_path: Path, host: str) -> None:
    """So reads a page whose name was resolved to this machine."""
    async with listening(tmp_path, admin=True, hosts=["tocsin.example.com"]) as port:
        for path in ("/metrics", "/api/v1/status", "/"):
            status, text = await port.get(path, Host=host)
            assert status == 403, path
            assert "web.hosts" in text
        async with port.asked("POST", RETRY, Host=host, Origin=f"http://{host}") as response:
            assert (response.status, port.process.rescans) == (403, 0)
        port.process.reasons = ["a secret of the database"]
        assert await port.get("/readyz", Host=host) == (503, "Tocsin is not ready; the reasons need a login.\n")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "127.0.0.1:8627", "[::1]:8627", "[fe80::1]", "10.1.2.3", "tocsin:8627", "app.localhost"),
        *("tocsin.example.com", "TOCSIN.example.com:443", "tocsin.example.com.", "tocsin.monitoring.svc:8627"),
    ],
)
async def test_own_names_of_the_host_are_served(tmp_path: Path, host: str) -> None:
    async with listening(tmp_path, hosts=["tocsin.example.com"]) as port:
        assert (await port.get("/metrics", Host=host))[0] == 200


async def test_name_of_the_machine_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes of a ledger link to it by that."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Host-A.example.com")
    async with listening(tmp_path) as port:
        assert (await port.get("/", Host="host-a.example.com:8627"))[0] == 200
        assert (await port.get("/", Host="host-b.example.com:8627"))[0] == 403


async def test_any_host_is_served_with_a_login(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS) as port:
        assert (await port.get("/metrics", Host="any.example.com", Authorization=ANN))[0] == 200


def test_rules_never_show_secrets() -> None:
    assert "$2b$" not in repr(Rules(users={"ann": hashed("x")}))
