"""The mails of the email channel, against a mail server on this machine: recipients, headers, content, settings."""

import email
import email.policy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from support.messages import message
from support.sending import Build, sent
from support.smtp import MailServer
from tocsin.channels import email as kind
from tocsin.channels.base import Delivered, Rejected
from tocsin.channels.email.addresses import Mailbox, mailbox
from tocsin.channels.email.mail import Route
from tocsin.envelope import View, merged
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.templates import Template

# Recipients.


async def test_recipients_of_configuration_and_row_are_deduplicated(build: Build, server: MailServer) -> None:
    channel = build(
        to=["ann@example.com", "{{ row.owner }}@example.com"],
        cc=[{"column": "team"}, "Ann@Example.com"],
        bcc=["audit@example.com"],
        reply_to=["ann@example.com", "support@example.com"],
    )
    people = {"owner": ("text", "bob"), "team": ("text", "cy@example.com, bob@example.com")}
    assert await sent(channel, message(extra=people)) == Delivered()
    [mail] = server.mails
    assert mail.recipients == ("ann@example.com", "bob@example.com", "cy@example.com", "audit@example.com")
    assert mail.parsed["To"] == "ann@example.com, bob@example.com"
    assert mail.parsed["Cc"] == "cy@example.com"
    assert mail.parsed["Reply-To"] == "ann@example.com, support@example.com"
    assert b"audit" not in mail.content


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("text", 'ann@example.com, "Lee, Bob" <bob@example.com>,', ["ann@example.com", "bob@example.com"]),
        ("text", 'ann@example.com; "Lee; Bob" <bob@example.com>;', ["ann@example.com", "bob@example.com"]),
        ("texts", "{ann@example.com,NULL,bob@example.com}", ["ann@example.com", "bob@example.com"]),
        ("jsonb", '["ann@example.com"]', ["ann@example.com"]),
        ("list", "{ann@example.com}", ["ann@example.com"]),
    ],
)
async def test_column_holds_one_address_or_many(
    build: Build, server: MailServer, column: str, value: str, expected: list[str]
) -> None:
    channel = build(to=[], bcc=[{"column": "who"}])
    assert await sent(channel, message(extra={"who": (column, value)})) == Delivered()
    [mail] = server.mails
    assert list(mail.recipients) == expected
    assert mail.parsed["To"] == "undisclosed-recipients:;"


@pytest.mark.parametrize("value", [None, " , ", "eve@evil.example, bob", "eve@evil.example; bob"])
async def test_row_without_recipient_becomes_a_dead_letter(build: Build, server: MailServer, value: str | None) -> None:
    """A comma or semicolon in a row adds no recipient to a template."""
    result = await sent(build(to=["{{ row.who }}", "{{ row.who }}@x.y"]), message(extra={"who": ("text", value)}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.NO_RECIPIENTS
    assert not server.mails


async def test_missing_column_of_the_row_is_named(build: Build) -> None:
    result = await sent(build(to=[{"column": "ownr"}]))
    assert result == Rejected(Reason.NO_RECIPIENTS, "late: to: the row has no column 'ownr'")


@pytest.mark.parametrize("text", ["bob", "ann@-\u00fc.example", "ann@example.com bob@example.com"])
async def test_invalid_address_is_noted_and_others_get_mail(server: MailServer, build: Build, text: str) -> None:
    """By the build of Python, the library would drop the second of two, or send both in one command."""
    with pytest.raises(ValueError, match="is not a valid mail address"):
        build(to=[text])
    result = await sent(build(to=["cy@example.com", {"column": "who"}]), message(extra={"who": ("text", text)}))
    assert result == Delivered(f"refused: late: to: {text!r} is not a valid mail address")
    assert [mail.recipients for mail in server.mails] == [("cy@example.com",)]


async def test_options_of_alert_override_those_of_channel(build: Build, server: MailServer) -> None:
    own = {"from": "Orders <orders@example.com>", "to": ["{{ row.customer }}@example.com"], "subject": "{{ alert }}!"}
    await sent(build(subject="Something", own=own))
    [mail] = server.mails
    assert (mail.sender, mail.recipients) == ("orders@example.com", ("Ann@example.com",))
    assert mail.parsed["Subject"] == "late!"
    assert mail.parsed["From"].addresses[0].display_name == "Orders"


async def test_digest_goes_to_recipients_of_all_its_notifications(build: Build, server: MailServer) -> None:
    envelopes = [message(key=who, extra={"who": ("text", who)}).envelope for who in ("bob", "cy", "bob")]
    await sent(build(to=["{{ row.who }}@example.com"]), replace(message(), envelope=merged(envelopes)))
    assert server.mails[0].recipients == ("bob@example.com", "cy@example.com")


async def test_one_invalid_address_of_a_column_is_noted(server: MailServer, build: Build) -> None:
    who = message(extra={"who": ("text", "ann@example.com; bob; cy@example.com")})
    assert await sent(build(to=[{"column": "who"}]), who) == Delivered(
        "refused: late: to: 'bob' is not a valid mail address"
    )
    assert [mail.recipients for mail in server.mails] == [("ann@example.com", "cy@example.com")]


async def test_domain_that_is_not_ascii_needs_no_smtputf8(build: Build) -> None:
    async with MailServer(utf8=False) as server:
        channel = build(at=server, to=["ann@b\u00fccher.example"], **{"from": "alerts@m\u00fcller.example"})
        assert await sent(channel) == Delivered()
    [mail] = server.mails
    assert (mail.sender, mail.recipients) == ("alerts@xn--mller-kva.example", ("ann@xn--bcher-kva.example",))
    assert mail.parsed["Message-ID"].endswith("@xn--mller-kva.example>")


async def test_non_ascii_addresses_are_sent_with_smtputf8(build: Build, server: MailServer) -> None:
    assert await sent(build(to=["zo\u00eb@example.com", "ann@example.com"])) == Delivered()
    [mail] = server.mails
    assert mail.recipients == ("zo\u00eb@example.com", "ann@example.com")
    assert "SMTPUTF8" in mail.options
    assert "zo\u00eb@example.com" in mail.content.decode()


@settings(max_examples=50)
@given(st.text(max_size=60) | st.from_regex(r"[a-z.]{1,9}@[a-z.-]{1,9}(, [a-z]@[a-z])?"))
def test_any_text_is_one_address_or_invalid(text: str) -> None:
    try:
        found = mailbox(text)
    except ValueError:
        return
    assert found.spec.count("@") == 1
    assert found.spec.isprintable()
    assert not set(found.spec) & set(' <>(),;:"\\[]')


@pytest.mark.parametrize(
    ("text", "spec", "name"),
    [
        (" Ann Lee <ann@example.com> ", "ann@example.com", "Ann Lee"),
        ('"Lee, Ann" <ann@example.com>', "ann@example.com", "Lee, Ann"),
        ("<ann@localhost>", "ann@localhost", ""),
        ("zo\u00eb@B\u00fccher.example", "zo\u00eb@xn--bcher-kva.example", ""),
        ("Ann <ann@\u4f8b\u3048\u3002jp>", "ann@xn--r8jz45g.jp", "Ann"),
    ],
)
def test_address_is_parsed_with_and_without_name(text: str, spec: str, name: str) -> None:
    assert mailbox(text) == Mailbox(spec, name)


@pytest.mark.parametrize(
    "text", ["", "ann@", "@x", "a b@x", "a@b@c", "a@x\nBcc: b@y", "a@-x", "a@x..y", ".a@x", "a@" + "x" * 300]
)
def test_invalid_mail_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid mail address"):
        mailbox(text)


# Headers.


async def test_headers_identify_an_automatic_mail(build: Build, server: MailServer) -> None:
    """A repeat is the same to the byte."""
    channel, what = build(), message(age=600.0)
    for _ in range(2):
        await sent(channel, what)
    first, second = server.mails
    assert first.content == second.content
    assert first.parsed["Message-ID"] == f"<{what.id}@example.com>"
    assert first.parsed["Auto-Submitted"] == "auto-generated"
    assert first.parsed["Date"].datetime.timestamp() == 1_795_242_000.0
    assert first.parsed["In-Reply-To"] is None


@pytest.mark.parametrize("each", [Kind.UPDATED, Kind.REPEATED, Kind.RESOLVED])
async def test_later_mail_of_episode_replies_to_the_first(build: Build, server: MailServer, each: Kind) -> None:
    channel, first = build(), message()
    assert each in channel.needs_previous_ids
    await sent(channel, message(each, previous_ids=(first.id, "another")))
    [mail] = server.mails
    assert mail.parsed["In-Reply-To"] == mail.parsed["References"] == f"<{first.id}@example.com>"


async def test_digest_of_several_episodes_replies_to_none(build: Build, server: MailServer) -> None:
    envelopes = [message(Kind.RESOLVED, key=key).envelope for key in "ab"]
    await sent(build(), replace(message(Kind.RESOLVED, previous_ids=("x",)), envelope=merged(envelopes)))
    assert server.mails[0].parsed["In-Reply-To"] is None


@settings(max_examples=50)
@given(text=st.text(st.characters(codec="utf-8"), max_size=300))
def test_row_text_never_changes_the_headers(text: str) -> None:
    options = {"from": "a@example.com", "to": ["b@example.com", {"column": "note"}], "subject": "S {{ row.note }}"}
    mail = Route("late", kind.Options.model_validate(options)).mail(message(extra={"note": ("text", text)}), 0.0)
    assert not isinstance(mail, Rejected)
    content = mail.content(utf8=True)
    parsed: Any = email.message_from_bytes(content, policy=email.policy.default)
    expected = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]
    assert parsed.keys() == expected
    assert not parsed.defects
    assert len(parsed["Subject"]) <= 200
    assert parsed["Subject"].isprintable()
    assert max(len(line) for line in content.split(b"\r\n")) <= 998


async def test_subject_and_names_accept_any_script(build: Build, server: MailServer) -> None:
    sender, to = "Zo\u00eb \u9234\u6728 <alerts@example.com>", ['"B\u00f6b, Jr." <bob@example.com>']
    note = "Bestellung \u00fcberf\u00e4llig " * 6
    channel = build(**{"from": sender}, to=to, subject="\u26a0 {{ row.note }}")
    await sent(channel, message(extra={"note": ("text", note)}))
    [mail] = server.mails
    assert mail.content.isascii()
    assert mail.parsed["Subject"] == "\u26a0 " + note.strip()
    assert mail.parsed["From"].addresses[0].display_name == "Zo\u00eb \u9234\u6728"
    assert mail.parsed["To"].addresses[0].display_name == "B\u00f6b, Jr."


# Content.


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


@pytest.mark.parametrize("given", [{"html": False}, {"text": "only this"}])
async def test_mail_can_be_plain_text_only(build: Build, server: MailServer, given: dict[str, Any]) -> None:
    await sent(build(**given))
    assert server.mails[0].parsed.get_content_type() == "text/plain"


@pytest.mark.parametrize(
    ("each", "subject", "says"),
    [
        (Kind.FIRED, "Fired: Order 17 of Ann is late", "since 2026-11-21 06:29:08 UTC\n\n"),
        (Kind.UPDATED, "Changed: Order 17 of Ann is late", "changed at 2026-11-21 06:41:42 UTC, after 12m 34s"),
        (Kind.RESOLVED, "Resolved: Order 17 of Ann is late", "resolved at 2026-11-21 06:41:42 UTC, after 12m 34s"),
        (Kind.REPEATED, "Still firing: Order 17 of Ann is late", "still firing at 2026-11-21 06:41:42 UTC"),
        (Kind.EVENT, "Event: Order 17 of Ann is late", "at 2026-11-21 06:41:42 UTC"),
    ],
)
async def test_default_mail_describes_each_kind(
    build: Build, server: MailServer, each: Kind, subject: str, says: str
) -> None:
    later = 1_795_242_548_000 + (0 if each is Kind.FIRED else 754_000)
    what = message(each, at=later)
    what.envelope["previous"] = {**what.envelope["row"], "late_by": 2.0} if each is Kind.UPDATED else None
    await sent(build(), what)
    [mail] = server.mails
    plain = mail.part("plain")
    assert mail.parsed["Subject"] == subject
    assert "Order 17 of Ann is late" in plain
    assert "Order 17 of Ann is late" in mail.part("html")
    assert says in plain
    assert "order_id: 17\ncustomer: Ann\n" in plain
    assert ("late_by: 3.0 (was 2.0)" in plain) == (each is Kind.UPDATED)


async def test_default_subject_has_labels_without_a_summary(build: Build, server: MailServer) -> None:
    view = View(labels=(("customer", "customer"), ("order", "order_id")))
    await sent(build(), message(view=view))
    assert server.mails[0].parsed["Subject"] == "Fired: late (customer Ann, order 17)"


async def test_digest_counts_and_lists_its_notifications(build: Build, server: MailServer) -> None:
    kinds = [Kind.FIRED, Kind.RESOLVED, Kind.FIRED]
    envelopes = [message(each, key=str(number)).envelope for number, each in enumerate(kinds)]
    await sent(build(), replace(message(), envelope=merged(envelopes)))
    [mail] = server.mails
    assert mail.parsed["Subject"] == "late: 3 notifications (2 fired, 1 resolved)"
    for text in (mail.part("plain"), mail.part("html")):
        assert all(f"Order {number} of Ann is late" in text for number in range(3))


async def test_large_digest_counts_notifications_it_omits(build: Build, server: MailServer) -> None:
    envelopes = [message().envelope] * 5_000
    assert await sent(build(), replace(message(), envelope=merged(envelopes))) == Delivered()
    assert "and 4900 more" in server.mails[0].part("plain")


async def test_template_with_missing_column_is_rejected(build: Build, server: MailServer) -> None:
    result = await sent(build(html="{{ row.custmer }}"))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert "late: html: line 1: there is no 'custmer'" in result.detail
    assert not server.mails


async def test_body_keeps_text_except_control_characters(build: Build, server: MailServer) -> None:
    await sent(build(text="{{ row.n }}"), message(extra={"n": ("text", "a\x00b\x1bc\td\r\ne \N{GRINNING FACE}")}))
    assert server.mails[0].part("plain").strip() == "a\ufffdb\ufffdc\td\ne \N{GRINNING FACE}"


async def test_long_lines_are_never_sent(server: MailServer, build: Build) -> None:
    """A server refuses lines beyond a thousand characters."""
    text = "x" * 5000 + "\n" + "\u00e9" * 5000
    assert await sent(build(text=text, html=f"<p>{text}</p>")) == Delivered()
    [mail] = server.mails
    assert max(map(len, mail.content.splitlines())) < 100
    assert mail.part("plain").strip() == text


# The configuration.


def _config(**given: Any) -> Any:
    base = {"type": "email", "host": "mail.test", "from": "a@example.com", "to": ["b@example.com"]}
    return kind.Config.model_validate({**base, **given})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"from": "ann"}, "'ann' is not a valid mail address"),
        ({"to": ["{{ rw.owner }}"]}, "there is no variable 'rw'"),
        ({"html": "{% if %}"}, "line 1: "),
        ({"username": "me"}, "set username and password together"),
        ({"security": "none", "tls_verify": False}, "none has no certificates"),
        ({"hello": "a b"}, "hello"),
        ({"password": "a\nb", "username": "me"}, "a password is one line"),
    ],
)
def test_invalid_setting_is_refused_and_named(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _config(**given)
    assert complaint in str(caught.value)
    assert "a\nb" not in str(caught.value)


def test_channel_without_recipients_reports_missing_settings() -> None:
    assert _config(to=[]).missing() == "set to, cc or bcc"
    assert _config(to=[], bcc=["a@example.com"]).missing() is None
