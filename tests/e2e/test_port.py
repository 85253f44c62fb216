"""A whole process with TLS and logins: start, commands, reload, and a file that changes."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from support.port import ADMIN_TOKEN, TOKEN, Authority, basic, encoded, hashed
from support.tocsin import Harness, TocsinProcess, command, new_harness
from support.waiting import until_equal

pytestmark = pytest.mark.e2e
PASSWORD = "p4ssword of ann"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def harness(tmp_path: Path, authority: Authority) -> AsyncIterator[Harness]:
    file = {"tls_server_config": authority.server(), "basic_auth_users": {"ann": hashed(PASSWORD)}}
    (tmp_path / "web.yml").write_bytes(encoded(file))
    for name, token in (("reading", TOKEN), ("changing", ADMIN_TOKEN)):
        (tmp_path / name).write_text(f"{token}\n")
    async with new_harness(tmp_path) as made:
        made.orders.insert(("1", "Ann", "10"))
        made.config["web"] |= {
            "config_file": "web.yml",
            "admin": True,
            "admins": ["ann"],
            "tokens": {"scripts": {"token_file": str(tmp_path / "reading")}},
        }
        yield made


async def answer(tocsin: TocsinProcess, authority: Authority, method: str, path: str, login: str) -> tuple[int, str]:
    connector = aiohttp.TCPConnector(ssl=authority.context())
    headers = {"Authorization": login} if login else {}
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.request(method, tocsin.url + path, headers=headers) as response,
    ):
        return response.status, await response.text()


async def until_ready(tocsin: TocsinProcess, authority: Authority) -> None:
    async def status() -> int:
        return (await answer(tocsin, authority, "GET", "/readyz", ""))[0]

    await until_equal(status, 200, "the status of /readyz")


async def test_commands_reach_a_protected_process(harness: Harness, authority: Authority) -> None:
    async with harness.run() as tocsin:
        assert tocsin.url.startswith("https://127.0.0.1:")
        await until_ready(tocsin, authority)
        folder, at = harness.directory, ("--url", tocsin.url, "--ca", str(authority.file))
        # On the same machine, the configuration has all that is needed. It has port 0, so the address is set.
        local = yaml.safe_load((folder / "tocsin.yaml").read_text())
        local["web"]["listen"] = tocsin.url.removeprefix("https://")
        (folder / "local.yaml").write_text(yaml.safe_dump(local))
        for arguments, environment in (
            (("-c", "local.yaml"), {}),
            ((*at, "--token-file", "reading"), {}),
            (at, {"TOCSIN_TOKEN": TOKEN}),
            ((*at, "--user", "ann"), {"TOCSIN_PASSWORD": PASSWORD}),
        ):
            status, output, errors = await command(folder, "alerts", *arguments, **environment)
            assert (status, errors) == (0, ""), arguments
            assert "orders" in output
            assert "Ann" in output
        for arguments, environment, said in (
            (at, {}, "a login is needed: a user of web.config_file, or a token of web.tokens; see --user"),
            ((*at, "--user", "ann"), {"TOCSIN_PASSWORD": "wrong"}, "the user or the password is wrong"),
            ((*at, "--user", "ann"), {}, "--user needs a password; set TOCSIN_PASSWORD"),
            ((*at, "--token-file", "nowhere"), {}, "nowhere: cannot read the token: No such file or directory"),
            (("--url", tocsin.url), {}, "--ca names the CA that signed it"),
            (("--url", tocsin.url, "--ca", "web.yml"), {}, "a certificate or key cannot be used"),
            (("--url", tocsin.url, "--ca", "nowhere"), {}, "nowhere: cannot read the certificate"),
        ):
            status, _, errors = await command(folder, "alerts", *arguments, **environment)
            assert status == 1, arguments
            assert said in errors, (arguments, errors)
            assert "Traceback" not in errors


async def test_doctor_knows_when_the_certificate_ends(harness: Harness, authority: Authority) -> None:
    async with harness.run() as tocsin:
        await until_ready(tocsin, authority)
        arguments = ("--url", tocsin.url, "--ca", str(authority.file), "--token-file", "reading", "--json")
        _, output, errors = await command(harness.directory, "doctor", *arguments)
    assert errors == ""
    [found] = [one for one in json.loads(output)["findings"] if one["place"] == "web.config_file"]
    assert (found["severity"], found["message"].startswith("it is valid for ")) == ("ok", True)


async def test_roles_follow_a_reload(harness: Harness, authority: Authority) -> None:
    async with harness.run() as tocsin:
        await until_ready(tocsin, authority)
        changing = f"Bearer {ADMIN_TOKEN}"
        assert (await answer(tocsin, authority, "POST", "/-/reload", changing))[0] == 401
        changed = harness.directory / "changing"
        harness.config["web"]["tokens"]["deploy"] = {"token_file": str(changed), "role": "admin"}
        harness.config["web"]["admins"] = []
        tocsin.write(harness.config)
        ann = basic("ann", PASSWORD)
        assert await answer(tocsin, authority, "POST", "/-/reload", ann) == (200, "The configuration was reloaded.\n")
        assert (await answer(tocsin, authority, "POST", "/-/reload", ann))[0] == 403
        assert (await answer(tocsin, authority, "POST", "/-/reload", changing))[0] == 200
        assert (await answer(tocsin, authority, "POST", "/-/reload", f"Bearer {TOKEN}"))[0] == 403
        assert not tocsin.logged("takes effect with the next start")
        harness.config["web"]["listen"] = "0.0.0.0:0"
        tocsin.write(harness.config)
        tocsin.signal(signal.SIGHUP)
        await tocsin.until_logged("takes effect with the next start", "web.listen")


async def test_refused_file_shows_in_log_and_readiness(harness: Harness, authority: Authority) -> None:
    async with harness.run() as tocsin:
        await until_ready(tocsin, authority)
        file = harness.directory / "web.yml"
        good = file.read_text()
        file.write_text(good.replace(hashed(PASSWORD), PASSWORD))
        await tocsin.until_logged("web.config_file refused; the last good one stays", "bcrypt")
        status, text = await answer(tocsin, authority, "GET", "/readyz", basic("ann", PASSWORD))
        assert (status, "web.config_file is refused, and the last good one is in effect" in text) == (200, True)
        metric = "tocsin_config_last_reload_successful"
        assert f"{metric} 0" in (await answer(tocsin, authority, "GET", "/metrics", f"Bearer {TOKEN}"))[1]
        file.write_text(good)
        await tocsin.until_logged("web.config_file applied")
        assert f"{metric} 1" in (await answer(tocsin, authority, "GET", "/metrics", f"Bearer {TOKEN}"))[1]
        for secret in (PASSWORD, "p4ssword", TOKEN, hashed(PASSWORD)):
            assert not tocsin.logged(secret)
        assert await tocsin.stop() == 0


async def test_all_mistakes_of_both_files_are_listed_at_once(harness: Harness) -> None:
    folder = harness.directory
    (folder / "web.yml").write_text(
        f"tls_server_config: {{cert_file: gone.pem, key_file: gone.pem, min_version: '1.2'}}\n"
        f"basic_auth_users: {{ann: {PASSWORD}}}\nrate_limit: {{interval: 1}}\n"
    )
    harness.config["web"]["tokens"]["short"] = {"token": "short"}
    (folder / "tocsin.yaml").write_text(yaml.safe_dump(harness.config))
    for name, status in (("check", 1), ("run", 2)):
        found, _, errors = await command(folder, name)
        assert found == status
        for part in (
            "web.yml:1: tls_server_config.min_version: must be TLS10",
            "web.yml:2: basic_auth_users.ann: must be a bcrypt hash",
            "web.yml:3: rate_limit.interval: write a duration with its unit",
            "web.tokens.short.token: must have at least 16 characters",
        ):
            assert part in errors, errors
        assert "p4ssword" not in errors
        assert "Traceback" not in errors


async def test_start_without_certificate_ends_with_a_reason(harness: Harness) -> None:
    (harness.directory / "ca-key.pem").unlink()
    (harness.directory / "tocsin.yaml").write_text(yaml.safe_dump(harness.config))
    for name, status in (("check", 1), ("run", 2)):
        found, _, errors = await command(harness.directory, name)
        assert (found, "tls_server_config.key_file: cannot read" in errors) == (status, True), errors
        assert "Traceback" not in errors
