"""Rules of the port without a connection: logins, hosts, limits, and checks of passwords."""

import asyncio
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.port import hashed
from tocsin.config.sections import WebSettings
from tocsin.config.web_file import WebFileSettings
from tocsin.web import passwords as module
from tocsin.web.access import (
    Buckets,
    Password,
    Role,
    Rules,
    Token,
    certificate_names,
    credentials,
    network,
    rules,
)
from tocsin.web.passwords import BusyError, Passwords


@given(st.text().filter(lambda user: ":" not in user), st.text())
def test_password_of_a_header_is_what_was_sent(user: str, password: str) -> None:
    header = b64encode(f"{user}:{password}".encode()).decode()
    assert credentials([f"Basic {header}"]) == Password(user, password)
    assert repr(Password(user, password)) == f"Password(user={user!r})"


@given(st.lists(st.text() | st.text().map("Basic {}".format) | st.text().map("Bearer {}".format)))
def test_any_header_is_a_login_or_an_error(headers: list[str]) -> None:
    try:
        found = credentials(headers)
    except ValueError:
        return
    assert (found is None) == (not headers)
    assert found is None or isinstance(found, Password | Token)


@given(st.text(), st.text())
def test_only_the_whole_token_has_its_role(token: str, other: str) -> None:
    found = rules(
        WebSettings(tokens={"a": {"token": "0123456789abcdef", "role": "admin"}}), WebFileSettings(), loopback=True
    )
    assert found.of_token("0123456789abcdef") is Role.ADMIN
    assert found.of_token(f"0123456789abcdef{token}") is (None if token else Role.ADMIN)
    assert found.of_token(other) is None


@pytest.mark.parametrize(
    ("given_rules", "loopback", "admin"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"tokens": {"a": {"token": "0123456789abcdef"}}}, False, True),
    ],
)
def test_admin_without_a_login_needs_loopback(given_rules: dict[str, Any], loopback: bool, admin: bool) -> None:
    found = rules(WebSettings(admin=True, **given_rules), WebFileSettings(), loopback=loopback)
    assert found.admin is admin
    assert found.of_user(None, frozenset()) is (Role.READ if given_rules else Role.ADMIN)


def test_names_of_a_certificate_are_compared_in_one_form() -> None:
    names = [("DNS", "a.example.com"), ("IP Address", "0:0:0:0:0:0:0:1"), ("URI", "spiffe://a/b"), ("email", "a@b")]
    found = certificate_names({"subjectAltName": names})
    assert found == frozenset({"a.example.com", "::1", "spiffe://a/b", "a@b"})
    assert Rules(allowed_sans=frozenset({"::1"})).allows_certificate(found)
    assert not Rules(allowed_sans=frozenset({"::2"})).allows_certificate(found)
    assert not Rules(allowed_sans=frozenset({"::2"})).allows_certificate(certificate_names({"subject": ()}))


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        (None, ""),
    ],
)
def test_failures_are_counted_for_the_network_of_a_site(address: str | None, counted: str) -> None:
    assert network(address) == counted


@given(st.integers(1, 5), st.floats(0.1, 10), st.lists(st.floats(0, 5), max_size=60))
def test_bucket_never_lets_more_than_its_rate(burst: int, interval: float, pauses: list[float]) -> None:
    buckets, now, taken = Buckets(burst=burst, interval=interval), 0.0, []
    for pause in pauses:
        now += pause
        if wait := buckets.wait("a", now):
            assert not buckets.wait("a", now + wait + 1e-6)
        else:
            buckets.take("a", now)
            taken.append(now)
        assert not buckets.wait("b", now), "another key has its own bucket"
    for i, first in enumerate(taken):
        for j in range(i, len(taken)):
            assert j - i + 1 <= burst + (taken[j] - first) / interval + 1e-6


def test_buckets_forget_the_oldest_keys() -> None:
    buckets = Buckets(burst=1, interval=60.0, most=100)
    for n in range(1_000):
        buckets.take(str(n), 0.0)
    assert len(buckets._full_at) == 100
    assert buckets.wait("999", 0.0)


# Checks of passwords.


async def test_unknown_user_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def matches(_: bytes, hash_: bytes) -> bool:
        checked.append(hash_)
        return True

    monkeypatch.setattr(module, "_matches", matches)
    users = {"ann": f"$2y$12${hashed('x')[7:]}", "bob": hashed("y")}
    assert await Passwords().check(users, Password("ann", "x"))
    assert not await Passwords().check(users, Password("eve", "x")), "whatever the comparison says"
    assert [one[4:6] for one in checked] == [b"12", b"12"]
    assert all(len(one) == 60 for one in checked)


async def test_result_is_kept_until_the_hash_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = Passwords()
    users = {"ann": hashed("x")}
    assert checked.known(users, Password("ann", "x")) is None
    assert await checked.check(users, Password("ann", "x"))
    assert not await checked.check(users, Password("ann", "y"))
    assert (checked.known(users, Password("ann", "x")), checked.known(users, Password("ann", "y"))) == (True, False)
    assert checked.known({"ann": hashed("z")}, Password("ann", "x")) is None
    assert checked.known({}, Password("ann", "x")) is None
    for n in range(200):
        await checked.check(users, Password("ann", str(n)))
        assert checked.known(users, Password("ann", "x")), "the one in use stays"
    assert len(checked._results) == 100
    assert b"x" not in checked._results


async def test_many_logins_at_once_are_refused_not_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = Passwords()
    users = {"ann": hashed("x")}
    results = await asyncio.gather(
        *(checked.check(users, Password("ann", str(n))) for n in range(50)), return_exceptions=True
    )
    assert sum(isinstance(one, BusyError) for one in results) == 34
    assert results.count(False) == 16
