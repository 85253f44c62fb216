"""An explanation that has something of everything."""

from support.web import ACME, COLUMNS, DEAD
from tocsin.explain.explanation import Answer, Explanation, Life, RouteExplanation, Step, Timer, Verdict, When

WHY = Explanation(
    alert="late",
    at=1_700_000_003.0,
    fingerprint="1" * 32,
    key={"customer": "Acme"},
    verdict=Verdict.FIRING,
    summary="It fires, since <b>noon</b>.",
    because=["The row is in the view."],
    source=None,
    started_at=1_700_000_000.0,
    ended_at=None,
    timer=Timer(name="repeat_interval", due=1_700_000_900.0),
    columns=COLUMNS,
    row=ACME,
    routes=[
        RouteExplanation(
            channel="people",
            type="novu",
            state="paused",
            message="401",
            kinds=["fired"],
            when=When(expression='row.severity == "page"', values={"row.severity": "info"}, result=False),
            interval=300.0,
            group={"region": "eu"},
            order={},
            waiting=3,
            window_ends=1_700_000_300.0,
            says=["This channel gets nothing."],
        )
    ],
    notifications=[
        Life(
            record=DEAD,
            request={"method": "POST", "body": {"text": "<b>late</b>"}},
            request_error="",
            answers=[Answer(at=1_700_000_002.0, outcome="dead", reason="rejected", answer="422")],
            says=["It was given up on."],
            next=None,
        )
    ],
    next=[Step(at=1_700_000_900.0, text="It is notified again.")],
    unknown=["Another process sends to the channel."],
    nearest=[],
)
