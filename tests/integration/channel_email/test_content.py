"""The mails of the email channel, against a mail server on this machine: headers, content, threads."""

import email
import email.policy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.messages import VIEW, message
from support.sending import Build, sent
from support.smtp import Mail, MailServer
from tocsin.channels import email as channel_email
from tocsin.channels.base import Delivered, Rejected
from tocsin.channels.email.mail import Route
from tocsin.envelope import View, merged
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.templates import Template


async def test_headers_identify_an_automatic_mail(build: Build, server: MailServer) -> None:
    what = message(age=600.0)
    await sent(build(), what)
    parsed = server.mails[0].parsed
    assert parsed["Message-ID"] == f"<{what.id}@example.com>"
    assert parsed["Auto-Submitted"] == "auto-generated"
    assert parsed["Date"].datetime.timestamp() == 1_795_242_000.0
    assert parsed["In-Reply-To"] is None


@pytest.mark.parametrize("kind", [Kind.UPDATED, Kind.REPEATED, Kind.RESOLVED])
async def test_later_mail_of_episode_replies_to_the_first(build: Build, server: MailServer, kind: Kind) -> None:
    channel = build()
    first = message()
    assert kind in channel.needs_previous_ids
    await sent(channel, first)
    await sent(channel, message(kind, previous_ids=(first.id, "another")))
    parent = server.mails[0].parsed["Message-ID"]
    assert server.mails[1].parsed["In-Reply-To"] == server.mails[1].parsed["References"] == parent


async def test_digest_of_several_episodes_replies_to_none(build: Build, server: MailServer) -> None:
    envelopes = [message(Kind.RESOLVED, key=key).envelope for key in "ab"]
    await sent(build(), replace(message(Kind.RESOLVED, previous_ids=("x",)), envelope=merged(envelopes)))
    assert server.mails[0].parsed["In-Reply-To"] is None


async def test_repeated_mail_is_byte_identical(build: Build, server: MailServer) -> None:
    channel = build()
    for _ in range(2):
        await sent(channel)
    first, second = server.mails
    assert first.content == second.content


async def test_mail_has_text_and_html_with_escaped_rows(build: Build, server: MailServer) -> None:
    view = View(annotations={"summary": Template("{{ row.note }}"), "link": Template("https://example.com/?a=1&b=2")})
    await sent(build(), message(view=view, extra={"note": ("text", "<script>alert(1)</script> & more")}))
    [mail] = server.mails
    assert mail.parsed.get_content_type() == "multipart/alternative"
    assert "note: <script>alert(1)</script> & more" in mail.part("plain")
    html = mail.part("html")
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert '<a href="https://example.com/?a=1&amp;b=2">' in html


async def test_configured_html_template_escapes_row_values(build: Build, server: MailServer) -> None:
    channel = build(text="plain {{ row.note }}", html="<b>{{ row.note }}</b>{{ '<i>' | safe }}")
    await sent(channel, message(extra={"note": ("text", "a < b")}))
    [mail] = server.mails
    assert mail.part("plain").strip() == "plain a < b"
    assert mail.part("html").strip() == "<b>a &lt; b</b><i>"


@pytest.mark.parametrize("settings", [{"html": False}, {"text": "only this"}])
async def test_mail_can_be_plain_text_only(build: Build, server: MailServer, settings: dict[str, Any]) -> None:
    await sent(build(**settings))
    assert server.mails[0].parsed.get_content_type() == "text/plain"


@pytest.mark.parametrize(
    ("kind", "subject", "says"),
    [
        (Kind.FIRED, "Fired: Order 17 of Ann is late", "since 2026-11-21 06:29:08 UTC\n\n"),
        (Kind.UPDATED, "Changed: Order 17 of Ann is late", "changed at 2026-11-21 06:41:42 UTC, after 12m 34s"),
        (Kind.RESOLVED, "Resolved: Order 17 of Ann is late", "resolved at 2026-11-21 06:41:42 UTC, after 12m 34s"),
        (Kind.REPEATED, "Still firing: Order 17 of Ann is late", "still firing at 2026-11-21 06:41:42 UTC"),
        (Kind.EVENT, "Event: Order 17 of Ann is late", "at 2026-11-21 06:41:42 UTC"),
    ],
)
async def test_default_mail_describes_each_kind(
    build: Build, server: MailServer, kind: Kind, subject: str, says: str
) -> None:
    later = 1_795_242_548_000 + (0 if kind is Kind.FIRED else 754_000)
    await sent(build(), message(kind, at=later))
    [mail] = server.mails
    assert mail.parsed["Subject"] == subject
    for text in (mail.part("plain"), mail.part("html")):
        assert "Order 17 of Ann is late" in text
    assert says in mail.part("plain")
    assert "order_id: 17\ncustomer: Ann\n" in mail.part("plain")


async def test_default_mail_of_update_has_previous_value(build: Build, server: MailServer) -> None:
    what = message(Kind.UPDATED)
    what.envelope["previous"] = {**what.envelope["row"], "late_by": 2.0}
    await sent(build(), what)
    assert "late_by: 3.0 (was 2.0)" in server.mails[0].part("plain")


async def test_default_subject_has_labels_without_a_summary(build: Build, server: MailServer) -> None:
    view = View(labels=(("customer", "customer"), ("order", "order_id")))
    await sent(build(), message(view=view))
    assert server.mails[0].parsed["Subject"] == "Fired: late (customer Ann, order 17)"


async def test_digest_counts_and_lists_its_notifications(build: Build, server: MailServer) -> None:
    kinds = [Kind.FIRED, Kind.RESOLVED, Kind.FIRED]
    envelopes = [message(kind, key=str(number)).envelope for number, kind in enumerate(kinds)]
    await sent(build(), replace(message(), envelope=merged(envelopes)))
    [mail] = server.mails
    assert mail.parsed["Subject"] == "late: 3 notifications (2 fired, 1 resolved)"
    for text in (mail.part("plain"), mail.part("html")):
        assert all(f"Order {number} of Ann is late" in text for number in range(3))


async def test_large_digest_counts_notifications_it_omits(build: Build, server: MailServer) -> None:
    envelopes = [message(key=str(number)).envelope for number in range(5_000)]
    assert await sent(build(), replace(message(), envelope=merged(envelopes))) == Delivered()
    assert "and 4900 more" in server.mails[0].part("plain")


async def test_template_with_missing_column_is_rejected(build: Build, server: MailServer) -> None:
    result = await sent(build(html="{{ row.custmer }}"))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert "late: html: line 1: there is no 'custmer'" in result.detail
    assert not server.mails


async def test_subject_is_one_line_for_any_row(build: Build, server: MailServer) -> None:
    channel = build(subject="{{ row.note }}")
    note = "a\r\nBcc: eve@evil.example\r\n\r\n<body> " + "x" * 5_000
    await sent(channel, message(extra={"note": ("text", note)}))
    [mail] = server.mails
    assert mail.parsed["Bcc"] is None
    assert mail.parsed["Subject"].startswith("a Bcc: eve@evil.example <body> xxx")
    assert len(mail.parsed["Subject"]) == 200


def _parsed(mail: Any) -> Any:
    return email.message_from_bytes(mail.content(utf8=True), policy=email.policy.default)


@given(text=st.text(st.characters(codec="utf-8"), max_size=300))
def test_row_text_never_changes_the_headers(text: str) -> None:
    route = Route(
        "late",
        channel_email.Options.model_validate(
            {"from": "a@example.com", "to": ["b@example.com", {"column": "note"}], "subject": "S {{ row.note }}"}
        ),
    )
    made = route.mail(message(extra={"note": ("text", text)}), 0.0)
    assert not isinstance(made, Rejected)
    parsed = _parsed(made)
    expected = {"From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"}
    assert set(parsed.keys()) == expected
    assert len(parsed.keys()) == len(expected)
    assert not parsed.defects
    assert len(parsed["Subject"]) <= 200
    assert parsed["Subject"].isprintable()
    assert max(len(line) for line in made.content(utf8=True).split(b"\r\n")) <= 998


async def test_subject_and_names_accept_any_script(build: Build, server: MailServer) -> None:
    channel = build(
        **{"from": "Zo\u00eb \u9234\u6728 <alerts@example.com>"}, to=['"B\u00f6b, Jr." <bob@example.com>'],
        subject="\u26a0 {{ row.note }}",
    )  # fmt: skip
    note = "Bestellung \u00fcberf\u00e4llig " * 6
    await sent(channel, message(extra={"note": ("text", note)}))
    [mail] = server.mails
    assert mail.content.isascii()
    assert mail.parsed["Subject"] == "\u26a0 " + note.strip()
    assert mail.parsed["From"].addresses[0].display_name == "Zo\u00eb \u9234\u6728"
    assert mail.parsed["To"].addresses[0].display_name == "B\u00f6b, Jr."


def test_body_keeps_text_except_control_characters() -> None:
    route = Route(
        "late", channel_email.Options.model_validate({"from": "a@x.y", "to": ["b@x.y"], "text": "{{ row.n }}"})
    )
    made = route.mail(message(view=VIEW, extra={"n": ("text", "a\x00b\x1bc\td\r\ne \N{GRINNING FACE}")}), 0.0)
    assert not isinstance(made, Rejected)
    mail = Mail(sender="", recipients=(), options=(), content=made.content(utf8=False), encrypted=False, login=None)
    assert mail.part("plain").strip() == "a\ufffdb\ufffdc\td\ne \N{GRINNING FACE}"
