"""The port with TLS and client certificates, and a file of both that changes while it runs."""

import asyncio
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from support.port import ANN, BOB, RETRY, USERS, Authority, basic, hashed, listening
from support.prometheus import run
from support.waiting import until, until_equal, until_some
from support.web import FIRED
from tocsin.config.sections import WebSettings

HEALTHY = Path(__file__).parents[2] / "compose" / "healthy.py"


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
