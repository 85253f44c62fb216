"""What is said of a connection that cannot be made."""

import errno
import socket
import ssl

import psycopg
import pytest

from tocsin.faults import why_unreachable
from tocsin.postgres import failure_text


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
        ("", "OperationalError"),
    ],
)
def test_failed_connection_of_postgres_is_one_line(error: str, text: str) -> None:
    """Each failure once, without the hints of libpq."""
    assert failure_text(psycopg.OperationalError(error)) == text
