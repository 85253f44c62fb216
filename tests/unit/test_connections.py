"""Connections: what is said of one that cannot be made, and which addresses may be refused."""

import errno
import ipaddress
import socket
import ssl

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from tocsin.channels.addresses import PrivateAddressError, public, public_socket
from tocsin.errors import SourceReason
from tocsin.faults import why_unreachable
from tocsin.postgres import Server, about_limit, failure_text
from tocsin.sources.server_errors import connect_error


def untrusted() -> ssl.SSLError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] ... (_ssl.c:1006)")
    error.verify_message = "self-signed certificate"
    return error


def no_tls() -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: a, b"), "Multiple exceptions: a, b"),
        (OSError(), "OSError"),
        (untrusted(), "the server's certificate is not valid: self-signed certificate"),
        (no_tls(), "TLS failed: wrong version number"),
    ],
)
def test_network_error_is_that_of_the_system(error: OSError, text: str) -> None:
    assert why_unreachable(error) == text


AT_6 = 'connection to server at "::1", port 5432 failed: Connection refused'
AT_4 = 'connection to server at "127.0.0.1", port 5432 failed: FATAL: no pg_hba.conf entry'
AT_NAME = "failed to resolve host 'db': Name or service not known"
HINT = "\n\tIs the server running on that host and accepting TCP/IP connections?"
SEVERAL = f"""\
connection failed: {AT_4}
Multiple connection attempts failed. All failures were:
- host: 'db', port: '5432', hostaddr: '::1': connection failed: {AT_6}{HINT}
- host: 'db', port: '5432', hostaddr: '127.0.0.1': connection failed: {AT_4}"""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (f"connection failed: {AT_6}{HINT}", AT_6),
        (f"connection failed: {AT_4}, SSL on\n{AT_4}, SSL off", f"{AT_4}, SSL on; {AT_4}, SSL off"),
        (SEVERAL, f"{AT_6}; {AT_4}"),
        ("connection timeout expired", "connection timeout expired"),
        ("fe_sendauth: no password supplied", "no password supplied"),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", AT_NAME),
        ("", "OperationalError"),
    ],
)
def test_failed_connection_of_postgres_is_one_line(error: str, text: str) -> None:
    """Each failure once, without the hints of libpq."""
    assert failure_text(psycopg.OperationalError(error)) == text


@pytest.mark.parametrize(
    ("text", "reason", "fix"),
    [
        ("fe_sendauth: no password supplied", SourceReason.AUTH, "set its password"),
        ('FATAL: password authentication failed for user "ann"', SourceReason.AUTH, "check the user and the password"),
        ('FATAL: role "ghost" does not exist', SourceReason.AUTH, "check the user"),
        ('FATAL: role "nologin" is not permitted to log in', SourceReason.AUTH, "has LOGIN"),
        (
            'FATAL: no pg_hba.conf entry for host "::1", user "u", no encryption',
            SourceReason.AUTH,
            "sslmode to require",
        ),
        ('FATAL: no pg_hba.conf entry for host "::1", user "u", SSL encryption', SourceReason.AUTH, "allow the user"),
        ('FATAL: database "nope" does not exist', SourceReason.CONNECT, "check the name of the database"),
        ("server does not support SSL, but SSL was required", SourceReason.CONNECT, "sslmode to disable"),
        ("SSL error: certificate verify failed", SourceReason.CONNECT, "sslrootcert"),
        (AT_NAME, SourceReason.CONNECT, "check the name of the host"),
        (AT_6, SourceReason.CONNECT, "that the server runs"),
        ("connection timeout expired", SourceReason.CONNECT, "firewalls"),
        ("something else", SourceReason.CONNECT, ""),
    ],
)
def test_failed_connection_names_its_fix(text: str, reason: SourceReason, fix: str) -> None:
    """Each text is one of PostgreSQL, libpq or psycopg."""
    error = connect_error(psycopg.OperationalError(text), Server(dsn=SecretStr("postgresql://u@h/d")), 0.0)
    assert error.reason is reason
    assert fix in error.fix
    assert bool(error.fix) == bool(fix)
    assert "fe_sendauth" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "FATAL: sorry, too many clients already",
        'FATAL: too many connections for role "x"',
        'FATAL: too many connections for database "x"',
        "FATAL: remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "FATAL: remaining connection slots are reserved for non-replication superuser connections",
        "FATAL: no more connections allowed (max_client_conn)",
        "FATAL: creating connection would violate max_connections limit (desired: 26, limit: 25, current: 25)",
    ],
)
def test_too_many_connections_are_recognised(text: str) -> None:
    assert about_limit(text)
    assert not about_limit("Connection refused")


OPTIONS = r"-c search_path=app,public --work-mem=1MB -ctimezone=Asia/Tokyo -c my.text=a\ b\\c -c log_connections=1 -e"
SETTINGS = {"search_path": "app,public", "work_mem": "1MB", "timezone": "Asia/Tokyo", "my.text": r"a b\c"}


def test_settings_of_a_dsn_are_not_sent_with_the_login() -> None:
    """Poolers refuse or drop them there. What the server takes from the login alone is still sent."""
    server = Server(dsn=SecretStr(make_conninfo("host=db user=x", options=OPTIONS)), options={"work_mem": "2MB"})
    assert conninfo_to_dict(server.conninfo())["options"] == "-clog_connections=1 -e"
    [statement] = server.configured()
    for name, value in {**SETTINGS, "work_mem": "2MB"}.items():
        assert f"set_config({literal(name)}, {literal(value)}, false)" in statement.as_string(None)
    assert "TimeZone" not in server.asked_output()


def literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


# Which addresses a webhook may reach when private ones are refused.

PRIVATE = [
    "127.0.0.1", "127.255.255.255", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.0.2.1",
    "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd12:3456::1", "ff02::1", "fec0::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2002:a00:1::",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "172.32.0.1", "192.169.0.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_refused(address: str) -> None:
    assert not public(address)
    family = 10 if ":" in address else 2
    with pytest.raises(PrivateAddressError):
        public_socket((family, 1, 6, "", (address, 80)))


def test_address_of_the_internet_is_public() -> None:
    assert [address for address in PUBLIC if not public(address)] == []


@given(st.ip_addresses(v=4))
def test_ipv6_form_matches_its_ipv4_address(inner: ipaddress.IPv4Address) -> None:
    number = int(inner)
    expected = public(str(inner))
    assert expected == (inner.is_global and not inner.is_multicast and not inner.is_reserved)
    for begin, shift in ((0xFFFF << 32, 0), (0x64FF9B << 96, 0), (0x2002 << 112, 80)):
        assert public(str(ipaddress.IPv6Address(begin | number << shift))) == expected
