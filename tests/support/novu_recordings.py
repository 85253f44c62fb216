"""The recordings of a real Novu, and a replay of them against the inbox.

The requests are sent in the recorded order to one inbox under the test's clock, half a second apart, and to another one
from where the database of the real server was emptied. Shortened parts (long bodies, repeated requests) are restored.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import aiohttp
from yarl import URL

from support.novu import API_KEY, Clock, FakeNovu, fake_novu
from support.novu_rate_limits import RateLimits
from tocsin_demo.inbox.inbox import Settings
from tocsin_demo.inbox.release import Release

_FOLDER = Path(__file__).parents[1] / "recordings"
FILES: Mapping[Release, Path] = {
    "2.0.0": _FOLDER / "novu" / "events-api.jsonl",
    "3.15.0": _FOLDER / "novu-3.15.0" / "events-api.jsonl",
}
HEADERS = (
    "idempotency-key",
    "idempotency-replay",
    "link",
    "ratelimit-limit",
    "ratelimit-policy",
    "ratelimit-remaining",
    "retry-after",
)
"""The response headers that are compared. `ratelimit-reset` of an accepted request is 0 or 1 for no known reason."""

_KILLED = "the real server was killed and started again"
_DIGEST = "the inbox takes a digest for a delay"
LEFT_OUT: Mapping[str, str] = {
    "auth_jwt_token_trigger": "a dashboard's session token; the inbox knows only API keys",
    "redis_gone_health": "Redis was stopped; the inbox has none",
    "redis_gone_trigger_then_api_killed": _KILLED,
    "idem_after_api_killed_mid_request": f"{_KILLED}; a key in progress is in idem_in_progress_3_concurrent_bulk",
    "throughput_single_accept_only": "a measurement",
    "throughput_bulk_100_accept_only": "a measurement",
    "throughput_single_with_worker": "a measurement",
    "digest_trigger_second": _DIGEST,
    "digest_cancel_first": _DIGEST,
    "after_delay_digest_first_cancelled": _DIGEST,
    "after_delay_digest_second": _DIGEST,
    "after_delay_digest_second_later": _DIGEST,
}
"""Recordings that are not compared, and why. Nor are the answers to requests that Tocsin does not send: `is_sent`."""
_SENT = re.compile(
    r"(POST|DELETE|GET) /v1/events/(?!.*/broadcast)|DELETE /v1/messages/transaction/|GET /v1/health-check"
)

FRESH_STORE = "ratelimit_on_single_ok"
STEP_S = 0.5
AT_ONCE: Mapping[str, float] = {
    "delay_instant_cancel": 0.0,
    "ratelimit_on_bulk_ok": 0.0,
    "ratelimit_on_cancel": 0.0,
    "ratelimit_on_messages": 0.0,
    "ratelimit_on_unknown_workflow": 0.0,
    "ratelimit_hit": 0.0,
    "ratelimit_other_category_while_limited": 0.035,
    "ratelimit_bulk_while_limited": 0.0,
    "ratelimit_cancel_while_limited": 0.0,
    "ratelimit_after_retry_after": 0.0,
    "ratelimit_with_idempotency_key": 0.0,
}
"""Seconds before a request that came sooner than `STEP_S`. Those of the rate limits lead to the recorded tokens."""
LATER: Mapping[str, float] = {"ratelimit_idempotency_key_after": 2.03}
"""Seconds before a request that came later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One request to the real Novu, its answer, and what was observed afterwards."""

    release: Release
    name: str
    method: str
    path: str
    request_headers: Mapping[str, str]
    request_body: Any
    status: int | None
    headers: Mapping[str, str]
    body: Any
    observed: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer of the inbox. `seen`: what was observed afterwards, as in the recording's `observed`."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    seen: Any = None


@cache
def recordings(release: Release = "2.0.0") -> Sequence[Recording]:
    """All recordings of a release, in order."""
    return tuple(_recording(json.loads(line), release) for line in FILES[release].read_text("utf-8").splitlines())


def is_sent(recording: Recording) -> bool:
    """Whether Tocsin sends such requests. The replay skips others, but still checks what was observed at that time."""
    return _SENT.match(f"{recording.method} {recording.path}") is not None


def compared(release: Release = "2.0.0") -> Sequence[Recording]:
    """The recordings that the inbox has to reproduce."""
    kept = (each for each in recordings(release) if each.name not in LEFT_OUT)
    return [
        each for each in kept if is_sent(each) or (each.method == "GET" and "notifications" in (each.observed or ()))
    ]


def _recording(raw: dict[str, Any], release: Release) -> Recording:
    request, response = raw["request"], raw["response"]
    return Recording(
        release=release,
        name=raw["name"],
        method=request["method"],
        path=request["path"],
        request_headers=request["headers"],
        request_body=request["body"],
        status=response.get("status"),
        headers={name: value for name, value in (response.get("headers") or {}).items() if name in HEADERS},
        body=response.get("body"),
        observed=_without_notes(raw["observed"]),
    )


def _without_notes(observed: Any) -> Any:
    """What was observed, without remarks."""
    if isinstance(observed, dict):
        return {name: value for name, value in observed.items() if name != "note"}
    return observed if isinstance(observed, list) else None


def normal(body: Any) -> Any:
    """A body without what differs from run to run: ids of the database, times, generated transaction ids."""
    text = json.dumps(body, sort_keys=True).replace(API_KEY, "<key>")
    text = re.sub(r'"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"', '"<uuid>"', text)
    text = re.sub(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"', '"<time>"', text)
    return json.loads(re.sub(r"\b[0-9a-f]{24}\b", "<id>", text))


def start_of(body: Any, shortened: str) -> tuple[str, str]:
    """A body and the beginning of one that was shortened in the recording, both as text without what differs."""

    def bare(text: str) -> str:
        text = re.sub(r"tx-[0-9a-f]{12}", "<txn>", text)
        text = re.sub(r'"(M|N)+', r'"\1', text)
        return re.sub(r"\b[0-9a-f]{24}\b", "<id>", text)

    start = bare(shortened.removesuffix(" ..."))
    # The last word may have been cut in the middle of an id.
    start = start[: start.rindex(",")] if "," in start else start
    return bare(json.dumps(body))[: len(start)], start


Special: TypeAlias = Callable[["Replay", Recording], Awaitable[Reply]]


class Replay:
    """Sends recordings to an inbox."""

    def __init__(self, novu: FakeNovu, clock: Clock, session: aiohttp.ClientSession) -> None:
        self.novu = novu
        self.clock = clock
        self._session = session
        self._last_id = ""

    async def play(self, recording: Recording, pause: float) -> Reply:
        """Wait, send the request, and note the answer."""
        self.clock.now += pause
        if before := BEFORE.get(recording.name):
            before(self.novu)
        if not is_sent(recording):
            return Reply(status=recording.status, headers=recording.headers, body=recording.body)
        if special := SPECIAL.get(recording.name):
            return await special(self, recording)
        return await self.send(recording.method, recording.path, request_body(recording), recording)

    async def send(self, method: str, path: str, body: Any, recording: Recording) -> Reply:
        """One request with the headers of the recording. No answer within a moment is a reply without a status."""
        headers = {name: value.replace("<key>", API_KEY) for name, value in recording.request_headers.items()}
        if recording.name in SPECIAL:  # of several requests only one was written down, and not always with its headers
            headers = {"content-type": "application/json", "authorization": f"ApiKey {API_KEY}"} | headers
        data = None if body is None else BytesIO(body.encode() if isinstance(body, str) else json.dumps(body).encode())
        timeout = aiohttp.ClientTimeout(total=0.3 if recording.status is None else 30)
        url = URL(self.novu.url + path, encoded=True)
        try:
            async with self._session.request(method, url, data=data, headers=headers, timeout=timeout) as answer:
                text = await answer.text()
                kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() in HEADERS}
                return Reply(status=answer.status, headers=kept, body=json.loads(text) if text else "")
        except TimeoutError:
            return Reply(status=None)

    def seen(self, recording: Recording, reply: Reply) -> Any:
        """The outcome of a request, in the terms of the recording."""
        observed = recording.observed
        if isinstance(observed, dict) and set(observed) & {"after_redis_back", "after_db_back", _RESTARTED}:
            self.novu.heal()
            self.clock.now += STEP_S
            return {name: self._outcome(_transaction(recording, reply)) for name in observed}
        if isinstance(observed, list):
            ids = [event.get("transactionId", "") for event in recording.request_body["events"]]
            return [self._outcome(each) for each in ids]
        if isinstance(observed, dict) and "notifications" in observed:
            # A request that names no transaction speaks of the one before.
            self._last_id = _transaction(recording, reply) or self._last_id
            return self._outcome(self._last_id)
        return None

    def _outcome(self, transaction_id: str) -> dict[str, Any]:
        found = self.novu.notifications(transaction_id)
        jobs = [f"{job.type}:{job.status}" for each in found for job in each.jobs]
        if len(jobs) > MOST_JOBS:
            jobs = [*jobs[:MOST_JOBS], f"... {len(jobs)} in all"]
        # What 3.15.0 deletes is gone.
        newer = self.novu.inbox.settings.release != "2.0.0"
        messages = sum(not (newer and message.deleted_at) for each in found for message in each.messages)
        return {"notifications": len(found), "messages": messages, "jobs": jobs}


MOST_JOBS = 8
_RESTARTED = "after_redis_restarted_empty"


def _transaction(recording: Recording, reply: Reply) -> str:
    """The transaction id that a request was about, or nothing."""
    body, answer = recording.request_body, reply.body
    if isinstance(body, dict):
        events = body.get("events")
        first = events[0] if isinstance(events, list) else body
        data = answer.get("data") if isinstance(answer, dict) else None
        answered = data.get("transactionId") if isinstance(data, dict) else None
        return str(first.get("transactionId") or answered or "")
    parts = urlsplit(recording.path)
    if found := parse_qs(parts.query).get("transactionId"):
        return found[0]
    if parts.path.startswith(("/v1/events/trigger/", "/v1/messages/transaction/")):
        return unquote(parts.path.rsplit("/", 1)[1])
    return ""


def request_body(recording: Recording) -> Any:
    """The body of a request, with what the recording only describes: `<100 KiB of x>`, a hundred events, long ids."""
    body = recording.request_body
    if recording.name == "trigger_text_plain":
        return json.dumps(_event("tx-text-plain"))
    if recording.name in {"bulk_100", "bulk_101"}:
        return {"events": [_event(f"tx-{number:012x}") for number in range(int(recording.name[5:]))]}
    if recording.name == "size_bulk_100_of_30k":
        return {"events": [_event(f"tx-{number:012x}", "x" * 30 * 1024) for number in range(1000, 1100)]}
    if recording.name == "txn_long_5000":
        return _event(unquote(_named("txn_long_5000_delete_messages", recording).path.rsplit("/", 1)[1]))
    if recording.name == "txn_long_100k":
        return _event("N" * 100_000)
    if not isinstance(body, dict):
        return body
    text = json.dumps({name: value for name, value in body.items() if name != "_bytes_"})
    return json.loads(re.sub(r"<(\d+) KiB(?: of x)?>", lambda match: "x" * int(match[1]) * 1024, text))


def _event(transaction_id: str, message: str = "m") -> dict[str, Any]:
    return {"name": "inapp-alert", "to": "sub-1", "payload": {"msg": message}, "transactionId": transaction_id}


def _named(name: str, beside: Recording) -> Recording:
    return next(each for each in recordings(beside.release) if each.name == name)


async def _twice(
    replay: Replay, recording: Recording, ids: Sequence[str], pause: float | None
) -> tuple[list[Reply], list[int]]:
    """Ids, each sent twice with a pause, or with none: at the same time. The answers, and how many messages each id
    made."""
    replies, counts = [], []
    for transaction_id in ids:
        event = _event(transaction_id)
        if pause is None:
            both = [replay.send("POST", recording.path, event, recording) for _ in range(2)]
            replies += await asyncio.gather(*both)
        else:
            replies.append(await replay.send("POST", recording.path, event, recording))
            replay.clock.now += pause
            replies.append(await replay.send("POST", recording.path, event, recording))
        replay.clock.now += STEP_S
        counts.append(len(replay.novu.messages(transaction_id)))
    return replies, counts


def _ids(recording: Recording, count: int, prefix: str) -> list[str]:
    """New ids, and as the last one that whose answer was recorded."""
    return [*(f"tx-{prefix}-{number}" for number in range(1, count)), recording.body["data"]["transactionId"]]


async def _concurrent_pairs(replay: Replay, recording: Recording) -> Reply:
    replies, counts = await _twice(replay, recording, _ids(recording, 20, "concurrent"), None)
    statuses = sorted({each.status for each in replies if each.status is not None})
    return replace(replies[-1], seen={"statuses": statuses, "messages_per_txn": counts})


async def _sequential_pairs(replay: Replay, recording: Recording) -> Reply:
    replies, counts = await _twice(replay, recording, _ids(recording, 20, "sequential"), 0)
    return replace(replies[-1], seen={"messages_per_txn": counts})


async def _pairs_by_pause(replay: Replay, recording: Recording) -> Reply:
    seen: dict[str, list[int]] = {}
    for ms in (5, 10, 20, 40, 80, 160, 320, 640):
        ids = [f"tx-{ms}-ms-{number}" for number in range(5)]
        _, seen[str(ms)] = await _twice(replay, recording, ids, ms / 1000)
    replies, seen["0"] = await _twice(replay, recording, _ids(recording, 5, "0-ms"), 0)
    return replace(replies[-1], seen={"messages_per_txn_by_pause_ms": seen})


async def _three_at_once(replay: Replay, recording: Recording) -> Reply:
    body = {"events": [_event(f"tx-cccc{number:08x}", "x" * 3000) for number in range(100)]}
    replay.novu.fault("delay", seconds=0.3, times=1)
    first = asyncio.create_task(replay.send("POST", recording.path, body, recording))
    await replay.novu.until(lambda: not replay.novu.inbox.faults.active)
    refused = [await replay.send("POST", recording.path, body, recording) for _ in range(2)]
    statuses = [each.status for each in (*refused, await first)]
    return replace(refused[0], seen={"statuses_of_the_three": statuses})


async def _until_limited(replay: Replay, recording: Recording) -> Reply:
    for _ in range(1000):
        reply = await replay.send(recording.method, recording.path, recording.request_body, recording)
        if reply.status == 429:
            return replace(reply, seen=recording.observed)
    raise AssertionError("never limited")


async def _bulk_counted(replay: Replay, recording: Recording) -> Reply:
    before = len(replay.novu.messages())
    reply = await replay.send(recording.method, recording.path, request_body(recording), recording)
    replay.clock.now += STEP_S
    count = {"messages": len(replay.novu.messages()) - before}
    if "results" in recording.observed:
        count["results"] = len(reply.body["data"])
    return replace(reply, seen=count)


async def _repeated_no_transaction(replay: Replay, recording: Recording) -> Reply:
    before = len(replay.novu.messages())
    reply = await replay.send(recording.method, recording.path, recording.request_body, recording)
    replay.clock.now += STEP_S
    outcome = replay._outcome(reply.body["data"]["transactionId"])
    same = len(replay.novu.messages()) == before
    return replace(reply, seen={"same_generated_txn_as_first": same, **outcome})


def _hang(novu: FakeNovu) -> None:
    novu.fault("hang", times=1)


def _limited(novu: FakeNovu) -> None:
    novu.inbox.limiter = RateLimits()


def _unlimited(novu: FakeNovu) -> None:
    novu.inbox.limiter = None


BEFORE: Mapping[str, Callable[[FakeNovu], None]] = {
    "ratelimit_on_single_ok": _limited,
    "list_setup": _unlimited,
    "worker_down_trigger": FakeNovu.stop_worker,
    "redis_frozen_trigger_15s_client_timeout": _hang,
    "db_frozen_trigger_15s_client_timeout": _hang,
    "redis_gone_trigger": FakeNovu.stop_worker,
    "redis_gone_trigger_idempotency_key": _hang,
}
"""Changes to the inbox before a request, as they were made to the real server."""

SPECIAL: Mapping[str, Special] = {
    "dup_race_20_pairs_concurrent": _concurrent_pairs,
    "dup_back_to_back_20_ids": _sequential_pairs,
    "dup_window_by_pause_ms": _pairs_by_pause,
    "bulk_100": _bulk_counted,
    "bulk_101": _bulk_counted,
    "idem_in_progress_3_concurrent_bulk": _three_at_once,
    "idem_no_txn_second": _repeated_no_transaction,
    "ratelimit_hit": _until_limited,
}
"""Recordings of more than one request, or with another form of outcome."""


async def replay_all(release: Release = "2.0.0") -> Mapping[str, Reply]:
    """Send all recordings of a release but those left out; what the inbox answered, by name."""
    kept = [each for each in recordings(release) if each.name not in LEFT_OUT]
    split = next((index for index, each in enumerate(kept) if each.name == FRESH_STORE), len(kept))
    replies: dict[str, Reply] = {}
    for part in filter(None, (kept[:split], kept[split:])):
        clock = Clock()
        async with (
            fake_novu(Settings(api_key=API_KEY, release=release), clock=clock) as novu,
            aiohttp.ClientSession() as session,
        ):
            replay = Replay(novu, clock, session)
            unseen: list[tuple[Recording, Reply]] = []
            for index, recording in enumerate(part):
                pause = AT_ONCE.get(recording.name, LATER.get(recording.name, STEP_S) - STEP_S / 2)
                reply = await replay.play(recording, pause)
                unseen.append((recording, reply))
                if index + 1 < len(part) and part[index + 1].name in AT_ONCE:
                    continue
                clock.now += STEP_S / 2
                for each, answer in unseen:
                    replies[each.name] = answer if answer.seen else replace(answer, seen=replay.seen(each, answer))
                unseen.clear()
                if recording.name == "worker_down_health":
                    novu.heal()
    return replies
