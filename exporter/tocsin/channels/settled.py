"""Messages to several recipients: one that has its message is not sent it again while others are retried."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import structlog

from tocsin.channels.base import Delivered, Rejected, Result, Retry
from tocsin.errors import Reason
from tocsin.repeats import Repeats

log = structlog.get_logger(__name__)

_REMEMBERED = 10_000
"""Messages; of older ones the recipients are forgotten."""


class Settled:
    """The recipients that have their message, or refused it for good. In memory: after a restart, a repeat reaches all
    of them again."""

    def __init__(self, channel: str, redact: Callable[[str], str], *, shown: bool) -> None:
        """`shown`: whether recipients may be shown, as mail addresses but no URLs with tokens."""
        self._channel = channel
        self._redact = redact
        self._shown = shown
        self._results: dict[str, dict[str, Result]] = {}
        self._refusals = Repeats(log, "recipient refused")

    def waiting(self, id_: str, recipients: Iterable[str]) -> list[str]:
        """Return those who are to get the message with this id."""
        return [recipient for recipient in recipients if recipient not in self._results.get(id_, {})]

    def add(self, id_: str, recipient: str, result: Result) -> None:
        """Store a result, unless it is to be sent again."""
        if isinstance(result, Retry):
            return
        self._results.setdefault(id_, {})[recipient] = result
        while len(self._results) > _REMEMBERED:
            del self._results[next(iter(self._results))]

    def result(self, id_: str, results: Mapping[str, Result], refused: Iterable[str] = ()) -> Result:
        """Return the result of the message. `results`: those of this attempt, by recipient; a stored one wins.
        `refused`: texts about recipients that were never asked."""
        settled = self._results.get(id_, {})
        results = settled | {name: result for name, result in results.items() if name not in settled}
        have = sum(isinstance(result, Delivered) for result in results.values())
        again = {name: result for name, result in results.items() if isinstance(result, Retry)}
        if again:
            # One that was sent says more than one that was not.
            name, first = min(again.items(), key=lambda item: item[1].free)
            alone = len(results) == 1
            detail = first.detail if alone else f"{have} of {len(results)} have it; {self._about(name, first.detail)}"
            return replace(first, detail=self._redact(detail))
        self._results.pop(id_, None)
        answers = {name: result.detail for name, result in results.items() if isinstance(result, Rejected)}
        text = "; ".join([*refused, *(self._about(name, answer) for name, answer in answers.items())])
        note = self._redact(f"refused: {text}") if text else ""
        if not have:
            return Rejected(Reason.REJECTED, note)
        for name, answer in answers.items():
            shown = {"recipient": name} if self._shown else {}
            self._refusals.add(name, channel=self._channel, id=id_, **shown, answer=self._redact(answer))
        accepted = (one.answer for one in results.values() if isinstance(one, Delivered) and one.answer)
        return Delivered(note, answer=next(accepted, ""))

    def _about(self, name: str, text: str) -> str:
        return f"{name}: {text}" if self._shown else text
