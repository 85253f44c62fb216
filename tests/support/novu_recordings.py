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
import yaml
from yarl import URL

from support.novu import API_KEY, Clock, FakeNovu, RateLimits, fake_novu
from tocsin_demo.inbox.answers import Release
from tocsin_demo.inbox.inbox import Settings

_TESTS = Path(__file__).parents[1]
FILES: Mapping[Release, Path] = {
    "2.0.0": _TESTS / "recordings" / "novu" / "events-api.jsonl",
    "3.15.0": _TESTS / "recordings" / "novu-3.15.0" / "events-api.jsonl",
}
RULES: Mapping[str, Any] = yaml.safe_load((_TESTS / "contract" / "inbox_recordings.yaml").read_text("utf-8"))
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

_SENT = re.compile(
    r"(POST|DELETE|GET) /v1/events/(?!.*/broadcast)|DELETE /v1/messages/transaction/|GET /v1/health-check"
)
_FRESH_STORE = "ratelimit_on_single_ok"
_STEP_S = 0.5
_MOST_JOBS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer to a request. `seen`: what was observed afterwards."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    seen: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One request to the real Novu, and its reply."""

    release: Release
    name: str
    method: str
    path: str
    request_headers: Mapping[str, str]
    request_body: Any
    reply: Reply

    @property
    def is_sent(self) -> bool:
        """Whether Tocsin sends such requests. The replay skips others, but still checks what was observed then."""
        return _SENT.match(f"{self.method} {self.path}") is not None


@cache
def recordings(release: Release = "2.0.0") -> Sequence[Recording]:
    """All recordings of a release, in order."""
    return tuple(_recording(json.loads(line), release) for line in FILES[release].read_text("utf-8").splitlines())


def compared(release: Release) -> Sequence[Recording]:
    """The recordings that the inbox has to reproduce."""
    skipped = {*RULES["left_out"], *RULES["answers_not_compared"][release]}
    return [
        each
        for each in recordings(release)
        if each.name not in skipped
        and (each.is_sent or (each.method == "GET" and "notifications" in (each.reply.seen or ())))
    ]


def _recording(raw: dict[str, Any], release: Release) -> Recording:
    request, response, observed = raw["request"], raw["response"], raw["observed"]
    if isinstance(observed, dict):
        observed = {name: value for name, value in observed.items() if name != "note"}
    headers = {name: value for name, value in (response.get("headers") or {}).items() if name in HEADERS}
    return Recording(
        release=release,
        name=raw["name"],
        method=request["method"],
        path=request["path"],
        request_headers=request["headers"],
        request_body=request["body"],
        reply=Reply(
            status=response.get("status"),
            headers=headers,
            body=response.get("body"),
            seen=observed if isinstance(observed, dict | list) else None,
        ),
    )


def read(recording: Recording, reply: Reply) -> Any:
    """What a client reads of an answer: the message of an error, the entries of a trigger. Of a malformed request, that
    the SDK does not send: the status of an entry, and no message."""
    body = json.loads(_bare(json.dumps(reply.body)))
    malformed = recording.name in RULES["malformed"]
    if recording.method == "GET" or reply.status is None or "_truncated_" in (body or ()):
        return None
    if reply.status >= 400:
        return None if malformed else body["message"]
    data = body.get("data") if isinstance(body, dict) else body
    return [_entry(each, malformed) for each in (data if isinstance(data, list) else [data])]


def _entry(entry: Any, malformed: bool) -> Any:
    if not isinstance(entry, dict):
        return entry
    hidden = {"activityFeedLink", *(("error",) if malformed else ())}
    return {name: value for name, value in entry.items() if name not in hidden}


def _bare(text: str) -> str:
    """A text without what differs from run to run: the key, generated transaction ids."""
    text = re.sub(r'"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|txn_[0-9a-zA-Z]+)"', '"<made up>"', text)
    return text.replace(API_KEY, "<key>")


# The requests.


def request_body(recording: Recording) -> Any:
    """The body of a request, with what the recording only describes: `<100 KiB of x>`, a hundred events, long ids."""
    match recording.name:
        case "trigger_text_plain":
            return json.dumps(_event("tx-text-plain"))
        case "bulk_100" | "bulk_101" as name:
            return {"events": [_event(f"tx-{number:012x}") for number in range(int(name[5:]))]}
        case "size_bulk_100_of_30k":
            return {"events": [_event(f"tx-{number:012x}", "x" * 30 * 1024) for number in range(1000, 1100)]}
        case "txn_long_5000":
            named = {each.name: each for each in recordings(recording.release)}
            return _event(unquote(named["txn_long_5000_delete_messages"].path.rsplit("/", 1)[1]))
        case "txn_long_100k":
            return _event("N" * 100_000)
    if not isinstance(recording.request_body, dict):
        return recording.request_body
    text = json.dumps({name: value for name, value in recording.request_body.items() if name != "_bytes_"})
    return json.loads(re.sub(r"<(\d+) KiB(?: of x)?>", lambda match: "x" * int(match[1]) * 1024, text))


def _event(transaction_id: str, message: str = "m") -> dict[str, Any]:
    return {"name": "inapp-alert", "to": "sub-1", "payload": {"msg": message}, "transactionId": transaction_id}


def _transaction(recording: Recording, reply: Reply) -> str:
    """The transaction id that a request was about, or nothing."""
    body = recording.request_body
    if isinstance(body, dict):
        events = body.get("events")
        data = reply.body.get("data") if isinstance(reply.body, dict) else None
        answered = data.get("transactionId") if isinstance(data, dict) else None
        return str((events[0] if isinstance(events, list) else body).get("transactionId") or answered or "")
    parts = urlsplit(recording.path)
    if found := parse_qs(parts.query).get("transactionId"):
        return found[0]
    if parts.path.startswith(("/v1/events/trigger/", "/v1/messages/transaction/")):
        return unquote(parts.path.rsplit("/", 1)[1])
    return ""


class Replay:
    """Sends recordings to an inbox."""

    def __init__(self, novu: FakeNovu, clock: Clock, session: aiohttp.ClientSession) -> None:
        self.novu = novu
        self.clock = clock
        self._session = session
        self._last_id = ""
        self._before = 0

    async def play(self, recording: Recording) -> Reply:
        """Send the request, and note the answer."""
        self._before = len(self.novu.messages())
        if before := BEFORE.get(recording.name):
            before(self.novu)
        if not recording.is_sent:
            return replace(recording.reply, seen=None)
        if special := SPECIAL.get(recording.name):
            return await special(self, recording)
        return await self.send(recording, request_body(recording))

    async def send(self, recording: Recording, body: Any) -> Reply:
        """One request with the headers of the recording. No answer within a moment is a reply without a status."""
        headers = {name: value.replace("<key>", API_KEY) for name, value in recording.request_headers.items()}
        if recording.name in SPECIAL:  # of several requests only one was written down, and not always with its headers
            headers = {"content-type": "application/json", "authorization": f"ApiKey {API_KEY}"} | headers
        data = None if body is None else BytesIO(body.encode() if isinstance(body, str) else json.dumps(body).encode())
        timeout = aiohttp.ClientTimeout(total=0.3 if recording.reply.status is None else 30)
        url = URL(self.novu.url + recording.path, encoded=True)
        try:
            async with self._session.request(
                recording.method, url, data=data, headers=headers, timeout=timeout
            ) as answer:
                text = await answer.text()
                kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() in HEADERS}
                return Reply(status=answer.status, headers=kept, body=json.loads(text) if text else "")
        except TimeoutError:
            return Reply(status=None)

    def seen(self, recording: Recording, reply: Reply) -> Any:
        """The outcome of a request, in the terms of the recording."""
        observed = recording.reply.seen
        if isinstance(observed, list):
            return [self.outcome(event.get("transactionId", "")) for event in recording.request_body["events"]]
        if not isinstance(observed, dict):
            return None
        if observed.keys() & {"after_redis_back", "after_db_back", "after_redis_restarted_empty"}:
            self.novu.heal()
            self.clock.now += _STEP_S
            return {name: self.outcome(_transaction(recording, reply)) for name in observed}
        count = len(self.novu.messages()) - self._before
        if "notifications" in observed:
            # A request that names no transaction speaks of the one before.
            self._last_id = _transaction(recording, reply) or self._last_id
            same = {"same_generated_txn_as_first": count == 0}
            return self.outcome(self._last_id) | {name: same[name] for name in observed.keys() & same}
        if observed.keys() <= {"messages", "results"}:
            return {"messages": count} | ({"results": len(reply.body["data"])} if "results" in observed else {})
        return None

    def outcome(self, transaction_id: str) -> dict[str, Any]:
        """What became of a trigger."""
        found = self.novu.notifications(transaction_id)
        jobs = [f"{job.type}:{job.status}" for each in found for job in each.jobs]
        if len(jobs) > _MOST_JOBS:
            jobs = [*jobs[:_MOST_JOBS], f"... {len(jobs)} in all"]
        # What 3.15.0 deletes is gone.
        newer = self.novu.inbox.settings.release != "2.0.0"
        messages = sum(not (newer and message.deleted_at) for each in found for message in each.messages)
        return {"notifications": len(found), "messages": messages, "jobs": jobs}

    async def twice(
        self, recording: Recording, ids: Sequence[str], pause: float | None
    ) -> tuple[list[Reply], list[int]]:
        """Send ids, each twice with a pause, or with none: at the same time. The answers, and how many messages each id
        made."""
        replies: list[Reply] = []
        counts = []
        for transaction_id in ids:
            both = [self.send(recording, _event(transaction_id)) for _ in range(2)]
            if pause is None:
                replies += await asyncio.gather(*both)
            else:
                replies.append(await both[0])
                self.clock.now += pause
                replies.append(await both[1])
            self.clock.now += _STEP_S
            counts.append(len(self.novu.messages(transaction_id)))
        return replies, counts


# Recordings of more than one request, or with another form of outcome.


def _ids(recording: Recording, count: int) -> list[str]:
    """New ids, and as the last one that whose answer was recorded."""
    new = [f"tx-{recording.name}-{number}" for number in range(1, count)]
    return [*new, recording.reply.body["data"]["transactionId"]]


async def _concurrent_pairs(replay: Replay, recording: Recording) -> Reply:
    replies, counts = await replay.twice(recording, _ids(recording, 20), None)
    statuses = sorted({each.status for each in replies if each.status is not None})
    return replace(replies[-1], seen={"statuses": statuses, "messages_per_txn": counts})


async def _sequential_pairs(replay: Replay, recording: Recording) -> Reply:
    replies, counts = await replay.twice(recording, _ids(recording, 20), 0)
    return replace(replies[-1], seen={"messages_per_txn": counts})


async def _pairs_by_pause(replay: Replay, recording: Recording) -> Reply:
    seen: dict[str, list[int]] = {}
    for ms in (5, 10, 20, 40, 80, 160, 320, 640):
        _, seen[str(ms)] = await replay.twice(recording, [f"tx-{ms}-ms-{number}" for number in range(5)], ms / 1000)
    replies, seen["0"] = await replay.twice(recording, _ids(recording, 5), 0)
    return replace(replies[-1], seen={"messages_per_txn_by_pause_ms": seen})


async def _three_at_once(replay: Replay, recording: Recording) -> Reply:
    body = {"events": [_event(f"tx-cccc{number:08x}", "x" * 3000) for number in range(100)]}
    replay.novu.fault("delay", seconds=0.3, times=1)
    first = asyncio.create_task(replay.send(recording, body))
    await replay.novu.until(lambda: not replay.novu.inbox.faults.active)
    refused = [await replay.send(recording, body) for _ in range(2)]
    statuses = [each.status for each in (*refused, await first)]
    return replace(refused[0], seen={"statuses_of_the_three": statuses})


async def _until_limited(replay: Replay, recording: Recording) -> Reply:
    for _ in range(1000):
        reply = await replay.send(recording, recording.request_body)
        if reply.status == 429:
            return replace(reply, seen=recording.reply.seen)
    raise AssertionError("never limited")


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

Special: TypeAlias = Callable[[Replay, Recording], Awaitable[Reply]]
SPECIAL: Mapping[str, Special] = {
    "dup_race_20_pairs_concurrent": _concurrent_pairs,
    "dup_back_to_back_20_ids": _sequential_pairs,
    "dup_window_by_pause_ms": _pairs_by_pause,
    "idem_in_progress_3_concurrent_bulk": _three_at_once,
    "ratelimit_hit": _until_limited,
}


@cache
def replay_all(release: Release) -> Mapping[str, Reply]:
    """Send all recordings of a release but those left out; what the inbox answered, by name."""
    return asyncio.run(_replay_all(release))


async def _replay_all(release: Release) -> Mapping[str, Reply]:
    kept = [each for each in recordings(release) if each.name not in RULES["left_out"]]
    split = next((index for index, each in enumerate(kept) if each.name == _FRESH_STORE), len(kept))
    pauses: Mapping[str, float] = RULES["pauses"]
    replies: dict[str, Reply] = {}
    for part in filter(None, (kept[:split], kept[split:])):
        clock = Clock()
        async with (
            fake_novu(Settings(api_key=API_KEY, release=release), clock=clock) as novu,
            aiohttp.ClientSession() as session,
        ):
            replay = Replay(novu, clock, session)
            unseen: list[tuple[Recording, Reply]] = []
            for recording, following in zip(part, [*part[1:], None], strict=True):
                later = 1.53 if recording.name == "ratelimit_idempotency_key_after" else 0.0
                clock.now += pauses.get(recording.name, _STEP_S / 2 + later)
                unseen.append((recording, await replay.play(recording)))
                if following is not None and following.name in pauses:
                    continue
                clock.now += _STEP_S / 2
                for each, answer in unseen:
                    replies[each.name] = answer if answer.seen else replace(answer, seen=replay.seen(each, answer))
                unseen.clear()
                if recording.name == "worker_down_health":
                    novu.heal()
    return replies
