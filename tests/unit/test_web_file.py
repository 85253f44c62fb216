"""The file of `web.config_file`: what is refused, what is warned of, and what exporter-toolkit accepts too."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from support.port import Authority, hashed
from tocsin.config.tls import protection, read_files
from tocsin.config.web_file import CIPHERS, CURVES, parse_web_file
from tocsin.errors import ConfigError

CASES = yaml.safe_load(Path(__file__).with_name("web_file_cases.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
def test_file_has_these_problems_and_warnings(case: dict[str, str | list[str]]) -> None:
    found = parse_web_file(str(case["file"]).replace("HASH", hashed("x")), "web.yml")
    assert [str(one) for one in found.problems] == case.get("problems", [])
    assert [str(one) for one in found.warnings] == case.get("warnings", [])


def test_every_setting_of_the_toolkit_is_read() -> None:
    text = f"""
        tls_server_config:
          cert_file: c.pem
          key_file: k.pem
          client_auth_type: RequireAndVerifyClientCert
          client_ca_file: ca.pem
          client_allowed_sans: [a.example.com]
          min_version: TLS12
          max_version: TLS13
          cipher_suites: [{", ".join(CIPHERS)}]
          prefer_server_cipher_suites: true
          curve_preferences: [CurveP256]
        http_server_config:
          http2: false
          headers:
            Strict-Transport-Security: max-age=1
            X-Content-Type-Options: nosniff
            X-Frame-Options: sameorigin
            X-XSS-Protection: "0"
            Content-Security-Policy: default-src 'none'
        rate_limit: {{burst: 5, interval: 1m1.5s}}
        basic_auth_users: {{ann: {hashed("x")}}}
    """
    found = parse_web_file(text, "web.yml")
    assert (found.problems, found.warnings) == ((), ())
    assert found.settings.rate_limit.interval == 61.5
    assert found.settings.protections() == {"TLS", "basic_auth_users", "client certificates", "client_allowed_sans"}


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_hashes_of_other_programs_are_read(prefix: str) -> None:
    text = f"basic_auth_users: {{ann: {prefix}{hashed('x')[4:]}}}"
    assert parse_web_file(text, "web.yml").problems == ()


@example("0:\x850")
@example("0:\u20280")
@given(
    st.text()
    | st.sampled_from(["basic_auth_users:", "tls_server_config:"]).flatmap(lambda k: st.text().map(f"{k} {{}}".format))
)
def test_any_text_is_a_file_or_has_problems(text: str) -> None:
    """Nothing raises, and no problem has a traceback."""
    found = parse_web_file(text, "web.yml")
    assert all(re.match(r"web\.yml(:\d+)?: ", str(one)) for one in (*found.problems, *found.warnings))


@pytest.mark.parametrize("sign", ["", *"*&!|>%@`'\"[{}]#,?:-"])
def test_password_without_quotes_is_never_shown(sign: str) -> None:
    for text in (f"{sign}hunter2", f"{sign}hunter2!x", f"{sign}hunter2: x", f"{sign}hunter2\n  bob: {sign}hunter2 b"):
        found = parse_web_file(f"basic_auth_users:\n  ann: {text}\n", "web.yml")
        assert found.problems, text
        assert "hunter2" not in str([*found.problems, *found.warnings]), text


@given(st.text(min_size=1))
def test_plaintext_password_is_never_shown(password: str) -> None:
    text = yaml.safe_dump({"basic_auth_users": {"ann": f"p4ss-{password}"}}, allow_unicode=True)
    problems = parse_web_file(text, "web.yml").problems
    assert problems
    assert "p4ss-" not in str(problems)


# Certificates.


def refused(folder: Path, tls: Mapping[str, object]) -> list[str]:
    file = folder / "web.yml"
    file.write_text(yaml.safe_dump({"tls_server_config": tls}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        protection(read_files(str(file)))
    return [f"{one.path}: {one.message}" for one in caught.value.problems]


def test_unusable_certificates_are_named_with_their_fix(tmp_path: Path) -> None:
    tls, other = Authority(tmp_path).server(), Authority(tmp_path, "other").server()
    (tmp_path / "empty.pem").touch()
    (tmp_path / "locked.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    verifying = {**tls, "client_auth_type": "RequireAndVerifyClientCert"}
    base = "tls_server_config"
    assert refused(tmp_path, {**tls, "key_file": other["key_file"]}) == [
        f"{base}.key_file: the key does not belong to the certificate"
    ]
    assert refused(tmp_path, {**tls, "key_file": "locked.pem"}) == [
        f"{base}.key_file: the key has a passphrase, which no one can type here; decrypt it: openssl pkey"
    ]
    assert refused(tmp_path, {**verifying, "client_ca_file": "empty.pem"}) == [
        f"{base}.client_ca_file: holds no certificate in PEM"
    ]
    for name, what in (("cert_file", "certificate"), ("key_file", "private key")):
        [problem] = refused(tmp_path, {**tls, name: "empty.pem"})
        assert problem.startswith(f"{base}.{name}: holds no {what} in PEM that can be used")
    missing = {"cert_file": "gone.pem", "key_file": "gone.pem"}
    assert refused(tmp_path, missing) == [
        f"{base}.{name}: cannot read {tmp_path}/gone.pem: no such file" for name in missing
    ]


@pytest.mark.parametrize("curve", CURVES)
def test_each_curve_and_every_cipher_suite_is_known_to_openssl(tmp_path: Path, curve: str) -> None:
    tls = {**Authority(tmp_path).server(), "curve_preferences": [curve], "cipher_suites": [*CIPHERS]}
    (tmp_path / "web.yml").write_text(yaml.safe_dump({"tls_server_config": tls}), encoding="utf-8")
    context = protection(read_files(str(tmp_path / "web.yml"))).context
    assert context is not None
    offered = {one["name"] for one in context.get_ciphers()}
    assert {*CIPHERS.values()} <= offered


def test_files_that_are_no_usual_files_are_refused(tmp_path: Path) -> None:
    """A pipe, as of `<(...)` in a shell, could be read once only."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * (1024 * 1024 + 1))
    for name, why in (
        ("pipe", "it is not a regular file"),
        (".", "it is not a regular file"),
        ("large", "it is larger than 1024 KiB"),
        ("nowhere", "no such file"),
    ):
        with pytest.raises(ConfigError, match=f"cannot read the file: {why}$"):
            protection(read_files(str(tmp_path / name)))
