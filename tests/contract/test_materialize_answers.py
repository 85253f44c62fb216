"""The double of Materialize answers logins, descriptions and changes of names like the recorded servers."""

import asyncio
import hashlib
import hmac
import json
import re
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from support.live import COLUMNS, settings, source
from support.materialize import RELEASES, MaterializeDouble, ServerError, errors, protocol
from support.materialize_recordings import FOLDERS, error_fields, load
from support.reading import check, error_of
from tocsin.errors import SourceReason
from tocsin.sources.wire import connect


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("login_password_refused", errors.invalid_password()),
        ("login_sasl_refused", errors.invalid_password()),
        ("too_many_connections", errors.too_many_connections(6, 4)),
    ],
)
def test_refused_logins_are_as_recorded(name: str, refusal: ServerError) -> None:
    [body] = [body for kind, body in load("v26.39", name, after="startup").answers if kind == "E"]
    assert protocol.error(refusal) == protocol.message(b"E", body)


async def test_double_describes_like_recorded_server() -> None:
    """The columns of a SUBSCRIBE, without running it."""
    recorded = FOLDERS["v26.8"] / "describe_by_prepare.jsonl"
    bodies = [one["body"] for one in map(json.loads, recorded.read_text().splitlines()) if one["type"] == "T"]
    async with MaterializeDouble() as double:
        double.create("kept", [("org", "text"), ("n", "int8")])
        async with connect(settings(double.dsn)) as wire:
            columns = await wire.describe(sql.SQL("SUBSCRIBE kept WITH (PROGRESS)"))
    described = bodies[0].encode("latin-1")
    for column in columns:
        assert column.name.encode() + b"\0" + bytes(6) + column.oid.to_bytes(4, "big") in described


@pytest.mark.parametrize("release", RELEASES)
async def test_description_needs_privilege_in_old_release_only(release: str) -> None:
    """No recording has this: it was seen on a live server of each release."""
    async with MaterializeDouble(release=release) as double:
        double.create("kept", [("org", "text")]).denied.add("bridge")
        async with connect(settings(double.dsn, user="bridge")) as wire:
            describing = wire.describe(sql.SQL("SUBSCRIBE kept WITH (PROGRESS)"))
            if release == "v26.8":
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await describing
            else:
                assert [column.name for column in await describing][3:] == ["org"]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await wire.query(sql.SQL("SELECT * FROM kept LIMIT 0"))


@pytest.mark.parametrize("release", RELEASES)
async def test_as_of_that_is_too_old_gives_up_the_history(release: str) -> None:
    """Tocsin asks for AS OF AT LEAST, which is never too old. Should a server refuse that all the same, asking again
    would fail for ever."""
    [body] = [body for kind, body in load(release, "resume_as_of_too_old").answers if kind == "E"]
    code, text, detail, hint = error_fields(body)

    def refuse(statement: str) -> None:
        if "AS OF" in statement:
            raise ServerError(code or "", text or "", detail, hint)

    async with MaterializeDouble(release=release) as double:
        double.create("public.orders", COLUMNS)
        double.answer = refuse
        check(await error_of(source(double), "public.orders", as_of=1), SourceReason.OTHER, history=False)


async def test_double_logs_in_like_recorded_server() -> None:
    """The kinds of messages up to the first statement, and what the client may read in them."""
    recording = load("v26.39", "login_password", after="startup")
    async with MaterializeDouble() as double:
        double.passwords["g_pw"] = load("v26.39", "login_password", after="p").statement
        reader, writer = await asyncio.open_connection("127.0.0.1", double.port)
        parts = [part for pair in recording.startup.items() if pair[0] for part in pair]
        packet = struct.pack("!I", 196608) + "\0".join([*parts, "", ""]).encode()
        password = protocol.message(b"p", double.passwords["g_pw"].encode() + b"\0")
        writer.write(struct.pack("!I", len(packet) + 4) + packet + password)
        sent: list[tuple[str, bytes]] = []
        while not sent or sent[-1][0] != "Z":
            kind, length = struct.unpack("!cI", await reader.readexactly(5))
            sent.append((kind.decode(), await reader.readexactly(length - 4)))
        writer.close()
    version = [body for kind, body in sent if body.startswith(b"mz_version")]
    assert version == [b"mz_version\0v26.39.0-dev.0\0"]
    recorded = [one for one in recording.answers if one[0] in "RSZ"]
    assert [one for one in recorded if one in sent] == [one for one in sent if one[1] not in version]


def test_recorded_scram_login_is_standard() -> None:
    """So libpq's, which the tests try on PostgreSQL, is all that a client needs."""
    entries = [json.loads(line) for line in (FOLDERS["v26.39"] / "login_sasl.jsonl").read_text().splitlines()]
    client = [one["body"] for one in entries if one["type"] == "p"]
    challenge, signature = (one["body"][4:] for one in entries if one["type"] == "R" and one["body"][3] in "\x0b\x0c")
    asked = dict(part.split("=", 1) for part in challenge.split(","))
    password = load("v26.39", "login_password", after="p").statement.encode()
    salted = hashlib.pbkdf2_hmac("sha256", password, b64decode(asked["s"]), int(asked["i"]))
    signed = ",".join((client[0].rsplit("n,,", 1)[1], challenge, client[1].rsplit(",p=", 1)[0])).encode()
    expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
    assert signature == f"v={b64encode(expected).decode()}"


Step = Callable[[MaterializeDouble], object]


def renamed(old: str, new: str) -> Step:
    return lambda double: double.rename(double.relation(old), new)


def made(name: str) -> Step:
    return lambda double: double.create(name, [("k", "text")])


def dropped(name: str) -> Step:
    return lambda double: double.drop(double.relation(name))


def replaced(name: str) -> Step:
    return lambda double: double.replace(double.relation(name), [("k", "text")])


def applied(name: str) -> Step:
    return lambda double: double.apply_replacement(double.relation(name), [])


def swapped(one: str, other: str) -> Step:
    return lambda double: double.swap_schemas(one, other)


there_and_back = [renamed("ca.v", "ca.w"), renamed("ca.w", "ca.v")]
schema_renamed = [renamed("ca.v", "cc.v"), renamed("cc.v", "ca.v")]
STEPS: dict[str, tuple[tuple[str, ...], list[Step]]] = {
    "catalog_renames": (
        ("ca.v", "cb.v"),
        [
            *(*there_and_back, *there_and_back, *[swapped("ca", "cb")] * 2, *schema_renamed),
            *(replaced("ca.v"), applied("ca.v"), dropped("ca.v"), made("ca.v")),
        ],
    ),
    "catalog_subscribe": (
        ("g_rec_blue.v", "g_rec_green.v"),
        [
            *(swapped("g_rec_blue", "g_rec_green"), made("g_rec_blue.later"), replaced("g_rec_blue.later")),
            *(applied("g_rec_blue.later"), dropped("g_rec_blue.later"), dropped("g_rec_green.v")),
        ],
    ),
}
"""What views there were, and what was done to them."""


@pytest.mark.parametrize("name", STEPS)
def test_objects_behind_names_change_as_recorded(name: str) -> None:
    """After each step every name refers to the same object as in the recorded catalog."""
    views, steps = STEPS[name]
    double = MaterializeDouble()
    expected: list[dict[str, str]] = [{}]
    held: set[tuple[str, str]] = set()
    for _, diff, row in load("v26.39", name).changes:
        if diff is None:
            expected += [dict(held)] if dict(held) != expected[-1] else []
        elif "r" not in row:  # a replacement that is not applied yet
            [number] = [one for one in row if re.fullmatch(r"u\d+", one or "")]
            at = row.index("materialize") + 1  # schema and name follow the database
            (held.add if diff > 0 else held.discard)((f"{row[at]}.{row[at + 1]}", str(number)))
    for view in views:
        made(view)(double)
    found = [ids(double)]
    for step in steps:
        step(double)
        found.append(ids(double))
    assert numbered(found) == numbered(expected[1:])


def ids(double: MaterializeDouble) -> dict[str, str]:
    return {".".join(one.name[1:]): one.id for one in double.relations.values()}


def numbered(states: list[dict[str, str]]) -> list[dict[str, int]]:
    """The same with each id as a number, in the order in which they appear."""
    order = list(dict.fromkeys(id_ for state in states for _, id_ in sorted(state.items())))
    return [{name: order.index(id_) for name, id_ in state.items()} for state in states]
