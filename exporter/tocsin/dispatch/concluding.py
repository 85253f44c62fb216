"""From what was sent to what is written: which notifications are done, and which request is repeated as it is. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tocsin.channels.base import Paused, Reschedule, Result, Retry
from tocsin.dispatch.lanes import Bulk
from tocsin.dispatch.policy import Policy
from tocsin.dispatch.sending import Sending, Sent
from tocsin.dispatch.verdict import verdicts
from tocsin.ledger.base import Bulks, Settlement
from tocsin.model import Notification


@dataclass(frozen=True, slots=True, kw_only=True)
class Concluded:
    """What is to be written of messages that share an outcome.

    `sent` and `settlements` belong together one by one. `again`: the bulk that these messages are sent in again, as it
    is. `made` and `ended`: see `Bulks`.
    """

    sent: Sequence[Sent]
    settlements: Sequence[Sequence[Settlement]]
    again: Bulk | None = None
    made: Sequence[Sequence[int]] = ()
    ended: Sequence[int] = ()


def conclude(
    sending: Sending, claim: Sequence[Notification] | Bulk, policy: Policy, now: float, chance: Callable[[], float]
) -> list[Concluded]:
    """Say what each result means. `claim`: what was to be sent."""
    concluded = [_apart(sent, policy, now, chance) for sent in sending.apart]
    bulk = sending.bulk
    if bulk is None:
        # A bulk of which nothing could be sent any more: it is not in `later` either.
        over = claim.seqs[:1] if isinstance(claim, Bulk) and claim.stored and not sending.later else ()
        return [*concluded, Concluded(sent=(), settlements=(), ended=over)] if over else concluded
    unknown = [sent for sent in sending.together if _is_unknown(sent.result, bulk)]
    concluded += [_apart(sent, policy, now, chance) for sent in sending.together if not _is_unknown(sent.result, bulk)]
    kept = Bulk(tuple(sent.head for sent in unknown), stored=True, sent=True)
    as_stored = bulk.stored and kept.seqs == bulk.seqs
    ended = bulk.seqs[:1] if bulk.stored and not as_stored else ()
    if unknown:
        made = () if as_stored else (kept.seqs,)
        concluded.append(_together(unknown, kept, made, ended, policy, now, chance))
    elif ended:
        concluded.append(Concluded(sent=(), settlements=(), ended=ended))
    return concluded


def _apart(sent: Sent, policy: Policy, now: float, chance: Callable[[], float]) -> Concluded:
    return Concluded(sent=(sent,), settlements=(verdicts(sent.together, sent.result, policy, now, chance),))


def _together(
    unknown: Sequence[Sent],
    kept: Bulk,
    made: Sequence[Sequence[int]],
    ended: Sequence[int],
    policy: Policy,
    now: float,
    chance: Callable[[], float],
) -> Concluded:
    """One outcome, one time of the repeat and one end for all that went in a request."""
    everything = [one for sent in unknown for one in sent.together]
    settlements = iter(verdicts(everything, unknown[0].result, policy, now, chance))
    parts = [[next(settlements) for _ in sent.together] for sent in unknown]
    members = tuple(
        replace(head, attempts=part[0].attempts, not_before=part[0].not_before)
        for head, part in zip(kept.members, parts, strict=True)
    )
    again = replace(kept, members=members)
    return Concluded(sent=unknown, settlements=parts, again=again, made=made, ended=ended)


def _is_unknown(result: Result, bulk: Bulk) -> bool:
    """Whether the receiver may have accepted a message: by this attempt, or by one before that was not answered."""
    if isinstance(result, Reschedule):
        return False
    if isinstance(result, Retry) and result.unknown:
        return True
    return bulk.sent and isinstance(result, Retry | Paused)


def bulks_of(channel: str, concluded: Iterable[Concluded]) -> Bulks | None:
    """What is to be written about bulks; None for nothing."""
    made = [members for one in concluded for members in one.made]
    ended = [first for one in concluded for first in one.ended]
    return Bulks(channel=channel, made=made, ended=ended) if made or ended else None
