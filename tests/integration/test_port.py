"""The port with TLS, passwords, tokens and roles, over real connections."""

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from support.port import ADMIN_TOKEN, TOKEN, Authority, basic, hashed, listening
from support.prometheus import run
from support.waiting import until, until_equal, until_some
from support.web import DEAD, FIRED
from tocsin import repeats
from tocsin.config.sections import WebSettings
from tocsin.web.access import Rules

HEALTHY = Path(__file__).parents[2] / "compose" / "healthy.py"
USERS = {"basic_auth_users": {"ann": hashed("annual rings"), "bob": hashed("bobbing")}}
ANN, BOB = basic("ann", "annual rings"), basic("bob", "bobbing")
TOKENS: dict[str, Any] = {"tokens": {"grafana": {"token": TOKEN}, "deploy": {"token": ADMIN_TOKEN, "role": "admin"}}}
RETRY = f"/api/v1/notifications/{DEAD.id}/retry"
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


async def test_any_host_is_served_with_a_login(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS) as port:
        assert (await port.get("/metrics", Host="any.example.com", Authorization=ANN))[0] == 200


def test_rules_never_show_secrets() -> None:
    assert "$2b$" not in repr(Rules(users={"ann": hashed("x")}))


# TLS.


async def test_port_has_tls_of_the_chosen_versions(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = {**authority.server(), "min_version": "TLS13", "curve_preferences": ["CurveP384"]}
    async with listening(tmp_path, {"tls_server_config": tls}) as port:
        assert port.url.startswith("https://")
        assert (await port.get("/metrics", tls=authority.context()))[0] == 200
        old = authority.context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(aiohttp.ClientConnectorError):
            await port.get("/metrics", tls=old)
        with pytest.raises(aiohttp.ClientConnectorError):
            await port.get("/metrics")  # no one vouches for the certificate
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.ClientSession() as client:
                await client.get(port.url.replace("https", "http"))


async def test_inline_certificate_and_cipher_suites_work(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.server()
    inline = {name: (tmp_path / files[f"{name}_file"]).read_text() for name in ("cert", "key")}
    suite = {"cipher_suites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]}
    async with listening(tmp_path, {"tls_server_config": {**inline, **suite, "max_version": "TLS12"}}) as port:
        context = authority.context()
        assert (await port.get("/metrics", tls=context))[0] == 200
        context.set_ciphers("ECDHE+AES256")
        with pytest.raises(aiohttp.ClientConnectorError):
            await port.get("/metrics", tls=context)


def client_certificates(authority: Authority, kind: str = "RequireAndVerifyClientCert", **more: Any) -> dict[str, Any]:
    tls = {**authority.server(), "client_auth_type": kind, "client_ca_file": authority.file.name, **more}
    return {"tls_server_config": tls}


async def test_client_without_certificate_gets_no_answer(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    async with listening(tmp_path, client_certificates(authority)) as port:
        context = authority.context(authority.client("prometheus.example.com"))
        assert (await port.get("/metrics", tls=context))[0] == 200
        stranger = authority.context(other.client("prometheus.example.com"))
        for refused in (authority.context(), stranger):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await port.get("/metrics", tls=refused)


async def test_client_certificate_needs_an_allowed_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    names = ["prometheus.example.com", "::1"]
    async with listening(tmp_path, client_certificates(authority, client_allowed_sans=names)) as port:
        for name, status in (("prometheus.example.com", 200), ("::1", 200), ("other.example.com", 403)):
            context = authority.context(authority.client(name))
            assert (await port.get("/metrics", tls=context))[0] == status, name


async def test_name_in_a_client_certificate_can_be_an_admin(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    file = client_certificates(authority)
    async with listening(tmp_path, file, admin=True, admins=["ops.example.com"], listen="0.0.0.0:0") as port:
        url = port.url.replace("0.0.0.0", "127.0.0.1")
        for name, status in (("ops.example.com", 200), ("grafana.example.com", 403)):
            tls = authority.context(authority.client(name))
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as client,
                client.post(url + RETRY) as response,
            ):
                assert response.status == status


async def test_certificate_does_not_replace_the_password(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with listening(tmp_path, {**client_certificates(authority), **USERS}) as port:
        tls = authority.context(authority.client("prometheus.example.com"))
        assert (await port.get("/metrics", tls=tls))[0] == 401
        assert (await port.get("/metrics", tls=tls, Authorization=ANN))[0] == 200


async def test_optional_certificate_is_verified_if_given(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    async with listening(tmp_path, {**client_certificates(authority, "VerifyClientCertIfGiven"), **USERS}) as port:
        assert (await port.get("/healthz", tls=authority.context()))[0] == 200
        assert (await port.get("/metrics", tls=authority.context(), Authorization=ANN))[0] == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await port.get("/metrics", tls=authority.context(other.client("a.example.com")), Authorization=ANN)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_health_check_of_the_image_finds_the_port(tmp_path: Path, tls: bool) -> None:
    file = {"tls_server_config": Authority(tmp_path).server()} if tls else {}
    async with listening(tmp_path, {**file, **USERS}) as port:
        url = port.url.replace("https:", "http:")
        for path, expected in (("/readyz", 0), ("/nothing", 1)):
            status, output = await run(sys.executable, "-I", HEALTHY, url + path)
            assert status == expected, output
        assert output == "401: a login is needed: a user of web.config_file, or a token of web.tokens\n"


# The file changes.


async def test_stream_ends_when_its_reader_loses_access(tmp_path: Path) -> None:
    async with listening(tmp_path, USERS) as port:
        async with port.asked("GET", "/api/v1/transitions", Authorization=BOB) as response:
            port.process.feed.publish([FIRED])
            await response.content.readuntil(b"event: transition")
            port.write({"basic_auth_users": {"ann": hashed("annual rings")}})
            await until(lambda: "bob" not in port.port.guard.rules.users, "the new file")
            port.process.feed.publish([FIRED])
            assert b"event: transition" not in await response.content.read()
        assert (await port.get("/api/v1/transitions", Authorization=BOB))[0] == 401


async def test_logins_of_a_later_start_do_not_open_the_port_before(tmp_path: Path) -> None:
    """The new `config_file` takes effect with the next start, `admin` at once."""
    async with listening(tmp_path) as port:
        port.port.configure(WebSettings(config_file="web.yml", admin=True, admins=["ann"]))
        async with port.asked("POST", RETRY) as response:
            assert (response.status, port.process.rescans) == (403, 0)
        port.port.configure(WebSettings(admin=True))
        async with port.asked("POST", RETRY) as response:
            assert response.status == 200


async def test_reload_to_loopback_does_not_open_a_port_that_is_not(tmp_path: Path) -> None:
    """The new `listen` takes effect with the next start, `admin` at once."""
    async with listening(tmp_path, listen="0.0.0.0:0") as port:
        port.port.configure(WebSettings(listen="127.0.0.1:8627", admin=True))
        url = port.url.replace("0.0.0.0", "127.0.0.1")
        async with aiohttp.ClientSession() as client, client.post(url + RETRY) as response:
            assert (response.status, port.process.rescans) == (403, 0)


async def test_changed_password_counts_at_once(tmp_path: Path) -> None:
    """Also on a connection that is kept, and although the old password was right before."""
    async with listening(tmp_path, USERS) as port, aiohttp.ClientSession() as client:

        async def status() -> int:
            async with client.get(f"{port.url}/metrics", headers={"Authorization": ANN}) as response:
                return response.status

        assert await status() == 200
        port.write({"basic_auth_users": {"ann": hashed("another one")}})
        await until_equal(status, 401, "the status")
        assert (await port.get("/metrics", Authorization=basic("ann", "another one")))[0] == 200
        assert (await port.get("/metrics", Authorization=BOB))[0] == 401


async def test_new_certificate_is_served_without_a_refused_connection(tmp_path: Path) -> None:
    first, second = Authority(tmp_path), Authority(tmp_path, "second")
    async with listening(tmp_path, {"tls_server_config": first.server()}) as port:
        both = first.context()
        both.load_verify_locations(second.file)
        statuses: set[int] = set()

        async def served_by_second() -> bool:
            statuses.add((await port.get("/metrics", tls=both))[0])
            try:
                return (await port.get("/metrics", tls=second.context()))[0] == 200
            except aiohttp.ClientConnectorCertificateError:
                return False

        port.write({"tls_server_config": second.server()})
        await until_some(served_by_second, "the new certificate")
        assert statuses == {200}
        # The same names of files with other content count too.
        second.server("127.0.0.1", "renewed.example.com")

        async def renewed() -> bool:
            host, port_number = port.url.removeprefix("https://").split(":")
            _, writer = await asyncio.open_connection(host, int(port_number), ssl=second.context())
            certificate = writer.get_extra_info("peercert")
            writer.close()
            return "renewed.example.com" in str(certificate)

        await until_some(renewed, "the renewed certificate")


async def test_kept_connection_ends_with_new_tls_settings(tmp_path: Path) -> None:
    """Otherwise a client without a certificate would stay connected after certificates became necessary."""
    authority = Authority(tmp_path)
    async with (
        listening(tmp_path, {"tls_server_config": authority.server()}) as port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.context())) as client,
    ):
        async with client.get(f"{port.url}/metrics") as response:
            assert response.status == 200
        port.write(client_certificates(authority))

        async def refused() -> bool:
            try:
                async with client.get(f"{port.url}/metrics") as response:
                    return response.status != 200
            except (aiohttp.ClientError, ssl.SSLError):
                return True

        await until_some(refused, "the refusal")


async def test_tls_put_in_later_takes_effect(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with listening(tmp_path, USERS) as port:
        assert port.url.startswith("http://")
        port.write({**USERS, "tls_server_config": authority.server()})

        async def encrypted() -> bool:
            secured = port.url.replace("http://", "https://")
            connector = aiohttp.TCPConnector(ssl=authority.context())
            try:
                async with (
                    aiohttp.ClientSession(connector=connector) as client,
                    client.get(f"{secured}/metrics", headers={"Authorization": ANN}) as response,
                ):
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        await until_some(encrypted, "TLS")


LOST = "any more; a restart puts this into effect"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", f"it has no TLS and no basic_auth_users {LOST}"),
        ("http_server_config: {http2: false}\n", f"it has no TLS and no basic_auth_users {LOST}"),
        ("basic_auth_users: {ann: p4ssword}\n", "basic_auth_users.ann: must be a bcrypt hash of the password"),
        ("basic_auth_users: [", "not YAML"),
        ("rate_limit: {interval: 1s}\n", "rate_limit.burst: must be at least 1"),
        ("tls_server_config: {cert_file: gone.pem, key_file: gone.pem}\n", "cert_file: cannot read"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (None, "cannot read the file: no such file"),
    ],
    ids=["empty", "no protection", "plaintext", "broken", "no burst", "no certificate", "binary", "missing"],
)
async def test_bad_file_leaves_the_last_good_one_in_effect(tmp_path: Path, text: str | bytes | None, why: str) -> None:
    authority = Authority(tmp_path)
    good = {**USERS, "tls_server_config": authority.server()}
    async with listening(tmp_path, good) as port:
        with capture_logs() as logs:
            if text is None:
                (tmp_path / "web.yml").unlink()
            else:
                port.write(text)
            await until(lambda: bool(port.port.warnings), "the refusal")
        assert any(why in one for one in port.port.warnings), port.port.warnings
        assert any("the last good one stays" in one["event"] for one in logs)
        assert "p4ssword" not in str([logs, port.port.warnings])
        tls = authority.context()
        assert (await port.get("/metrics", tls=tls, Authorization=ANN))[0] == 200
        assert (await port.get("/metrics", tls=tls))[0] == 401
        port.write({**good, "basic_auth_users": {"ann": hashed("repaired")}})
        await until(lambda: not port.port.warnings, "the repaired file")
        assert (await port.get("/metrics", tls=tls, Authorization=basic("ann", "repaired")))[0] == 200


async def test_certificate_and_key_of_a_renewal_under_way_are_refused(tmp_path: Path) -> None:
    """The certificate was replaced, and the key is not yet."""
    authority = Authority(tmp_path)
    async with listening(tmp_path, {"tls_server_config": authority.server()}) as port:
        key = (tmp_path / "ca-key.pem").read_bytes()
        authority.server()
        new = (tmp_path / "ca-key.pem").read_bytes()
        (tmp_path / "ca-key.pem").write_bytes(key)
        await until(lambda: bool(port.port.warnings), "the refusal")
        assert "tls_server_config.key_file: the key does not belong to the certificate" in port.port.warnings[0]
        assert (await port.get("/metrics", tls=authority.context()))[0] == 200
        (tmp_path / "ca-key.pem").write_bytes(new)
        await until(lambda: not port.port.warnings, "the pair")
        assert (await port.get("/metrics", tls=authority.context()))[0] == 200
