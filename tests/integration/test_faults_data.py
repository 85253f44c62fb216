"""Unusual but valid rows through a whole process: each is shown and notified as it is, and none affects another."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.materialize import encode, protocol
from support.materialize.relation import TIMESTAMP
from support.tocsin import Harness, TocsinProcess, new_harness

pytestmark = pytest.mark.e2e


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with new_harness(tmp_path) as made:
        yield made


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


async def quiet(harness: Harness, tocsin: TocsinProcess) -> None:
    """No unexpected exception was logged, and the process is ready."""
    assert not tocsin.logged("Traceback")
    assert not tocsin.logged("level=error")
    assert await tocsin.ready() == ""
    assert await tocsin.stop() == 0


TEXTS = (None, "NaN", "Infinity", "-Infinity", "1e3", "-0", "123456789012345678901234567890.5")


async def test_null_and_infinite_values_are_shown(harness: Harness) -> None:
    """NULL is also a key, other than the empty text."""
    rows = [(str(number), "x", text) for number, text in enumerate(TEXTS)]
    odd = [(None, "Ann", "1"), ("", "Bob", "2")]
    fired = [("fired", str(row[0])) for row in (*rows, *odd)]
    harness.orders.insert(*rows, *odd)
    async with harness.run() as tocsin:
        await harness.until_notified(*fired)
        await tocsin.until_ready()
        await harness.until_shown(tocsin)
        _, page = await tocsin.get("/metrics")
        shown = sorted(line.rpartition(" ")[2] for line in page.splitlines() if line.startswith("orders{"))
        assert shown == sorted(["NaN", "NaN", "+Inf", "-Inf", "1000", "0", "1.2345678901234568e+29", "1", "2"])
        values = {envelope["row"]["id"]: envelope["value"] for envelope in harness.envelopes()}
        assert list(map(values.get, range(4))) == [None, "NaN", "Infinity", "-Infinity"]
        for request in harness.receiver.requests:
            json.loads(request.body, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert len({envelope["fingerprint"] for envelope in harness.envelopes()}) == len(fired)
        assert len((await tocsin.json("/api/v1/firing"))["firing"]) == len(fired)
        harness.orders.delete(odd[0])
        await harness.until_notified(*fired, ("resolved", "None"))
        await harness.until_shown(tocsin)
        await quiet(harness, tocsin)


NASTY = (
    'quote"quote',
    "back\\slash",
    "line\nfeed",
    "carriage\rreturn\ttab",
    "}{ ,= # HELP orders evil",
    "\u2028\u2029\x85",
    "üñ😀 עברית \u202e",
    "\x01\x7f",
    "'; DROP TABLE orders; --",
    "{{ 7 * 7 }} {% for %}",
    "<script>alert(1)</script>",
    " blanks around ",
    "a" * 3000,
)


async def test_any_text_in_labels_arrives_unchanged(harness: Harness) -> None:
    harness.alert["annotations"] = {"summary": "Order of {{ row.name }}"}
    rows = [(str(number), text, "1") for number, text in enumerate(NASTY)]
    harness.orders.insert(*rows)
    async with harness.run() as tocsin:
        await harness.until_notified(*(("fired", str(number)) for number in range(len(NASTY))))
        await harness.until_shown(tocsin)
        names = {envelope["row"]["id"]: envelope for envelope in harness.envelopes()}
        for number, text in enumerate(NASTY):
            assert names[number]["labels"]["name"] == text
            assert names[number]["annotations"]["summary"] == f"Order of {text}"
        firing = (await tocsin.json("/api/v1/firing"))["firing"]
        assert sorted(row["labels"]["name"] for row in firing) == sorted(NASTY)
        await quiet(harness, tocsin)
    async with harness.run() as tocsin:  # the ledger has them unchanged, too
        await tocsin.until_ready()
        harness.orders.delete(*rows)
        both = [(kind, str(number)) for number in range(len(NASTY)) for kind in ("fired", "resolved")]
        await harness.until_notified(*both)
        await quiet(harness, tocsin)


async def test_megabyte_of_text_in_row_arrives(harness: Harness) -> None:
    harness.alert["labels"] = ["id"]
    text = "😀\t\\" * 170_000
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        harness.orders.insert(("1", text, "1"), ("2", "small", "2"))
        await harness.until_notified(("fired", "1"), ("fired", "2"))
        [large] = [envelope for envelope in harness.envelopes() if envelope["row"]["id"] == 1]
        assert large["row"]["name"] == text
        assert len(await tocsin.gauge("orders")) == 2
        harness.orders.update(("1", text, "1"), ("1", text + "!", "1"))
        await harness.until_notified(("fired", "1"), ("fired", "2"), ("updated", "1"))
        await quiet(harness, tocsin)


def raw(*lines: bytes) -> tuple[bytes, ...]:
    """Rows as the server would send them, byte for byte; `@` is replaced by the timestamp."""
    return tuple(protocol.message(b"d", line.replace(b"@", TIMESTAMP)) for line in lines)


async def test_invalid_utf8_is_shown_by_codes(harness: Harness) -> None:
    """A negative multiplicity, which a source should never send, is counted and is no firing."""
    harness.orders.bulk = raw(b"@\tf\t1\t1\ta\xffb\t10\n", b"@\tf\t-1\t4\tAnn\t10\n", "@\tf\t1\t3\tü\t30\n".encode())
    async with harness.run() as tocsin:
        await harness.until_notified(("fired", "1"), ("fired", "3"))
        assert await tocsin.gauge("orders") == {labels(id="1", name="a\\xffb"): 10, labels(id="3", name="ü"): 30}
        assert await tocsin.metric("tocsin_alert_negative_total", alert="orders") == 1
        harness.orders.insert(("4", "Ann", "10"))  # now there are none
        harness.orders.insert(("5", "Cyd", "30"))
        await harness.until_notified(("fired", "1"), ("fired", "3"), ("fired", "5"))
        harness.orders.insert(("4", "Ann", "10"))  # now there is one
        await harness.until_notified(("fired", "1"), ("fired", "3"), ("fired", "5"), ("fired", "4"))
        await quiet(harness, tocsin)


async def test_large_silent_snapshot_is_shown(harness: Harness) -> None:
    """With `initial: silent` nothing of it is sent."""
    count = 20_000
    harness.alert["max_series"] = count
    harness.alert["initial"] = "silent"
    harness.orders.bulk = encode((str(number), f"name {number}", "1") for number in range(count))
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        assert len(await tocsin.gauge("orders")) == count
        harness.orders.insert(("-1", "last", "1"))
        await harness.until_notified(("fired", "-1"))
        await quiet(harness, tocsin)


async def test_constant_view_fires_once(harness: Harness) -> None:
    harness.orders.insert(("1", "Ann", "10"))
    harness.orders.freeze()
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_notified(("fired", "1"))
        await harness.until_shown(tocsin)
        assert await tocsin.stop() == 0
    async with harness.run() as tocsin:
        await tocsin.until_ready()
        await harness.until_shown(tocsin)
        assert harness.notified() == [("fired", "1")]
        assert not tocsin.logged("history does not reach back")
        await quiet(harness, tocsin)
