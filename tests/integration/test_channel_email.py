"""What the email channel sends, against a mail server on this machine: recipients, headers, content, threads."""

import email
import email.policy
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from support.messages import VIEW, message
from support.smtp import Mail, MailServer
from tocsin.channels import Delivered, Message, Rejected, Result
from tocsin.channels import email as channel_email
from tocsin.channels.email.addresses import Mailbox, mailbox
from tocsin.channels.email.mail import Route
from tocsin.envelope import View, merged
from tocsin.errors import Reason
from tocsin.model import Kind
from tocsin.templates import Template


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    async with MailServer() as made:
        yield made


Build = Callable[..., Any]


@pytest.fixture
async def build(server: MailServer) -> AsyncIterator[Build]:
    made: list[Any] = []

    def make(**settings: Any) -> Any:
        own = settings.pop("own", {})
        base = {"from": "Tocsin <alerts@example.com>", "to": ["ann@example.com"], **settings}
        config = channel_email.Config.model_validate(
            {"type": "email", "host": "127.0.0.1", "port": server.port, "security": "none", **base}
        )
        options = channel_email.Options.model_validate({**base, **own})
        made.append(channel_email.build("mail", config, {"late": options}, now=lambda: 1_795_242_600.0))
        return made[-1]

    yield make
    for channel in made:
        await channel.close()


async def sent(channel: Any, what: Message | None = None) -> Result:
    [result] = await channel.send([what or message()])
    return result  # type: ignore[no-any-return]


def person(*people: str) -> dict[str, tuple[str, str | None]]:
    """Columns of a row that name people."""
    return {"owner": ("text", people[0] if people else None), "team": ("texts", "{" + ",".join(people) + "}")}


# Who gets it.


async def test_recipients_come_from_the_configuration_and_from_the_row_each_once(
    build: Build, server: MailServer
) -> None:
    channel = build(
        to=["ann@example.com", "{{ row.owner }}@example.com"],
        cc=[{"column": "team"}, "Ann@Example.com"],
        bcc=["audit@example.com"],
    )
    people = {"owner": ("text", "bob"), "team": ("text", "cy@example.com, bob@example.com")}
    assert await sent(channel, message(extra=people)) == Delivered()
    [mail] = server.mails
    assert mail.recipients == ("ann@example.com", "bob@example.com", "cy@example.com", "audit@example.com")
    assert mail.parsed["To"] == "ann@example.com, bob@example.com"
    assert mail.parsed["Cc"] == "cy@example.com"
    assert b"audit" not in mail.content


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("text", "ann@example.com", ["ann@example.com"]),
        ("text", 'ann@example.com, "Lee, Bob" <bob@example.com>,', ["ann@example.com", "bob@example.com"]),
        ("texts", "{ann@example.com,NULL,bob@example.com}", ["ann@example.com", "bob@example.com"]),
        ("jsonb", '["ann@example.com"]', ["ann@example.com"]),
        ("list", "{ann@example.com}", ["ann@example.com"]),
    ],
)
async def test_a_column_may_hold_one_address_or_many(
    build: Build, server: MailServer, column: str, value: str, expected: list[str]
) -> None:
    channel = build(to=[{"column": "who"}])
    assert await sent(channel, message(extra={"who": (column, value)})) == Delivered()
    assert list(server.mails[0].recipients) == expected


@pytest.mark.parametrize("value", [None, "", " , "])
async def test_a_row_that_names_nobody_is_a_dead_letter_and_says_so(
    build: Build, server: MailServer, value: str | None
) -> None:
    channel = build(to=[{"column": "who"}, "{{ row.who }}"])
    result = await sent(channel, message(extra={"who": ("text", value)}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.NO_RECIPIENTS
    assert not server.mails


async def test_a_column_that_the_row_does_not_have_is_named(build: Build) -> None:
    result = await sent(build(to=[{"column": "ownr"}]))
    assert result == Rejected(Reason.NO_RECIPIENTS, "late: to: the row has no column 'ownr'")


async def test_what_is_no_address_keeps_no_mail_from_the_others_and_shows(build: Build, server: MailServer) -> None:
    result = await sent(build(to=["ann@example.com", {"column": "team"}]), message(extra=person("nobody")))
    assert result == Delivered("refused: late: to: 'nobody' is no mail address")
    assert server.mails[0].recipients == ("ann@example.com",)


async def test_a_template_makes_one_address_so_that_a_row_cannot_add_others(build: Build, server: MailServer) -> None:
    channel = build(to=["{{ row.owner }}@example.com"])
    result = await sent(channel, message(extra={"owner": ("text", "eve@evil.example, bob")}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.NO_RECIPIENTS
    assert not server.mails


async def test_recipients_and_subject_of_an_alert_override_those_of_the_channel(
    build: Build, server: MailServer
) -> None:
    channel = build(
        subject="Something",
        own={
            "from": "Orders <orders@example.com>",
            "to": ["{{ row.customer }}@example.com"],
            "subject": "{{ alert }}!",
        },
    )
    await sent(channel)
    [mail] = server.mails
    assert (mail.sender, mail.recipients) == ("orders@example.com", ("Ann@example.com",))
    assert mail.parsed["Subject"] == "late!"
    assert mail.parsed["From"] == "Orders <orders@example.com>"


async def test_answers_go_where_reply_to_says_even_when_they_get_the_mail_too(build: Build, server: MailServer) -> None:
    await sent(build(reply_to=["ann@example.com", "desk@example.com"]))
    assert server.mails[0].parsed["Reply-To"] == "ann@example.com, desk@example.com"


async def test_a_mail_to_hidden_recipients_only_names_nobody(build: Build, server: MailServer) -> None:
    await sent(build(to=[], bcc=["ann@example.com"]))
    assert server.mails[0].recipients == ("ann@example.com",)
    assert server.mails[0].parsed["To"] == "undisclosed-recipients:;"


async def test_a_digest_goes_to_everybody_whom_one_of_its_notifications_names(build: Build, server: MailServer) -> None:
    envelopes = [message(key=str(n), extra=person(who)).envelope for n, who in enumerate(["bob", "cy", "bob"])]
    digest = replace(message(), envelope=merged(envelopes))
    await sent(build(to=["{{ row.owner }}@example.com"]), digest)
    assert server.mails[0].recipients == ("bob@example.com", "cy@example.com")


# What it says.


async def test_the_headers_say_what_kind_of_mail_it_is(build: Build, server: MailServer) -> None:
    what = message(age=600.0)
    await sent(build(), what)
    parsed = server.mails[0].parsed
    assert parsed["Message-ID"] == f"<{what.id}@example.com>"
    assert parsed["Auto-Submitted"] == "auto-generated"
    assert parsed["Date"].datetime.timestamp() == 1_795_242_000.0
    assert parsed["In-Reply-To"] is None


@pytest.mark.parametrize("kind", [Kind.UPDATED, Kind.REPEATED, Kind.RESOLVED])
async def test_a_second_mail_of_the_same_episode_is_threaded_under_the_first(
    build: Build, server: MailServer, kind: Kind
) -> None:
    channel = build()
    first = message()
    assert kind in channel.wants_earlier
    await sent(channel, first)
    await sent(channel, message(kind, earlier=(first.id, "another")))
    parent = server.mails[0].parsed["Message-ID"]
    assert server.mails[1].parsed["In-Reply-To"] == server.mails[1].parsed["References"] == parent


async def test_a_digest_of_several_episodes_answers_none_of_them(build: Build, server: MailServer) -> None:
    envelopes = [message(Kind.RESOLVED, key=key).envelope for key in "ab"]
    await sent(build(), replace(message(Kind.RESOLVED, earlier=("x",)), envelope=merged(envelopes)))
    assert server.mails[0].parsed["In-Reply-To"] is None


async def test_a_repeat_is_byte_identical(build: Build, server: MailServer) -> None:
    channel = build()
    for _ in range(2):
        await sent(channel)
    first, second = server.mails
    assert first.content == second.content


async def test_text_and_html_are_both_there_and_what_comes_from_a_row_is_escaped(
    build: Build, server: MailServer
) -> None:
    view = View(annotations={"summary": Template("{{ row.note }}"), "link": Template("https://example.com/?a=1&b=2")})
    await sent(build(), message(view=view, extra={"note": ("text", "<script>alert(1)</script> & more")}))
    [mail] = server.mails
    assert mail.parsed.get_content_type() == "multipart/alternative"
    assert "note: <script>alert(1)</script> & more" in mail.part("plain")
    html = mail.part("html")
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert '<a href="https://example.com/?a=1&amp;b=2">' in html


async def test_own_templates_are_used_and_own_html_is_escaped(build: Build, server: MailServer) -> None:
    channel = build(text="plain {{ row.note }}", html="<b>{{ row.note }}</b>{{ '<i>' | safe }}")
    await sent(channel, message(extra={"note": ("text", "a < b")}))
    [mail] = server.mails
    assert mail.part("plain").strip() == "plain a < b"
    assert mail.part("html").strip() == "<b>a &lt; b</b><i>"


@pytest.mark.parametrize("settings", [{"html": False}, {"text": "only this"}])
async def test_a_mail_can_be_plain_text_only(build: Build, server: MailServer, settings: dict[str, Any]) -> None:
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
async def test_the_default_mail_says_what_happened(
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


async def test_the_default_mail_of_a_change_says_what_it_was_before(build: Build, server: MailServer) -> None:
    what = message(Kind.UPDATED)
    what.envelope["previous"] = {**what.envelope["row"], "late_by": 2.0}
    await sent(build(), what)
    assert "late_by: 3.0 (was 2.0)" in server.mails[0].part("plain")


async def test_without_a_summary_the_labels_tell_what_it_is_about(build: Build, server: MailServer) -> None:
    view = View(labels=(("customer", "customer"), ("order", "order_id")))
    await sent(build(), message(view=view))
    assert server.mails[0].parsed["Subject"] == "Fired: late (customer Ann, order 17)"


async def test_a_digest_counts_and_lists_its_notifications(build: Build, server: MailServer) -> None:
    kinds = [Kind.FIRED, Kind.RESOLVED, Kind.FIRED]
    envelopes = [message(kind, key=str(number)).envelope for number, kind in enumerate(kinds)]
    await sent(build(), replace(message(), envelope=merged(envelopes)))
    [mail] = server.mails
    assert mail.parsed["Subject"] == "late: 3 notifications (2 fired, 1 resolved)"
    for text in (mail.part("plain"), mail.part("html")):
        assert all(f"Order {number} of Ann is late" in text for number in range(3))


async def test_a_digest_of_very_many_lists_the_first_and_says_how_many_more(build: Build, server: MailServer) -> None:
    envelopes = [message(key=str(number)).envelope for number in range(5_000)]
    assert await sent(build(), replace(message(), envelope=merged(envelopes))) == Delivered()
    assert "and 4900 more" in server.mails[0].part("plain")


async def test_a_template_that_misses_a_column_rejects_and_names_it(build: Build, server: MailServer) -> None:
    result = await sent(build(html="{{ row.custmer }}"))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.TEMPLATE
    assert "late: html: line 1: there is no 'custmer'" in result.detail
    assert not server.mails


async def test_a_subject_is_one_line_however_the_row_looks(build: Build, server: MailServer) -> None:
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
def test_no_text_of_a_row_adds_a_header_or_breaks_one(text: str) -> None:
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


@given(st.text(max_size=60) | st.from_regex(r"[a-z.]{1,9}@[a-z.-]{1,9}(, [a-z]@[a-z])?"))
def test_a_text_is_one_address_or_none(text: str) -> None:
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
        ("ann@example.com", "ann@example.com", ""),
        (" Ann Lee <ann@example.com> ", "ann@example.com", "Ann Lee"),
        ('"Lee, Ann" <ann@example.com>', "ann@example.com", "Lee, Ann"),
        ("<ann@localhost>", "ann@localhost", ""),
        ("zo\u00eb@b\u00fccher.example", "zo\u00eb@b\u00fccher.example", ""),
    ],
)
def test_addresses_are_read_with_and_without_a_name(text: str, spec: str, name: str) -> None:
    assert mailbox(text) == Mailbox(spec, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "ann@",
        "@x",
        "a b@x",
        "a@b@c",
        "a@x\nBcc: b@y",
        "a@x, b@y",
        "a@-x",
        "a@x..y",
        ".a@x",
        "a@" + "x" * 300,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no mail address"):
        mailbox(text)


async def test_subjects_and_names_may_be_in_any_script(build: Build, server: MailServer) -> None:
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


async def test_addresses_in_any_script_go_to_a_server_that_takes_them(build: Build, server: MailServer) -> None:
    assert await sent(build(to=["zo\u00eb@example.com", "ann@example.com"])) == Delivered()
    [mail] = server.mails
    assert mail.recipients == ("zo\u00eb@example.com", "ann@example.com")
    assert "SMTPUTF8" in mail.options
    assert "zo\u00eb@example.com" in mail.content.decode()


async def test_a_server_that_takes_ascii_only_gets_the_others_and_the_refusal_says_what_to_do() -> None:
    async with MailServer(utf8=False) as server:
        base = {"from": "a@example.com", "to": ["zo\u00eb@example.com", "ann@example.com"]}
        config = channel_email.Config.model_validate(
            {"type": "email", "host": "127.0.0.1", "port": server.port, "security": "none", **base}
        )
        only = channel_email.Options.model_validate({**base, "to": ["zo\u00eb@example.com"]})
        channel = channel_email.build("mail", config, {"late": channel_email.Options(**base), "only": only})
        try:
            result = await sent(channel)
            assert isinstance(result, Delivered)
            assert "zo\u00eb@example.com: 553 the server takes no addresses that are not ASCII" in result.note
            assert server.mails[0].recipients == ("ann@example.com",)
            assert server.mails[0].content.isascii()
            refused = await sent(channel, message(alert="only"))
            assert isinstance(refused, Rejected)
            assert "xn--" in refused.detail
        finally:
            await channel.close()


# The configuration.


def _config(**settings: Any) -> Any:
    base = {"type": "email", "host": "mail.test", "from": "a@example.com", "to": ["b@example.com"]}
    return channel_email.Config.model_validate({**base, **settings})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"from": "nobody"}, "'nobody' is no mail address"),
        ({"to": ["ann"]}, "'ann' is no mail address"),
        ({"to": ["{{ rw.owner }}"]}, "there is no variable 'rw'"),
        ({"html": "{% if %}"}, "html: line 1"),
        ({"html": True}, "html"),
        ({"username": "me"}, "give username and password, or neither"),
        ({"security": "ssl"}, "'none', 'starttls' or 'tls'"),
        ({"security": "none", "tls_verify": False}, "security: none has no certificates"),
        ({"hello": "a b"}, "hello"),
        ({"port": 0}, "port"),
        ({"password": "a\nb", "username": "me"}, "a password is one line"),
    ],
)
def test_a_wrong_setting_is_refused_and_named(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _config(**settings)
    assert complaint in str(caught.value)
    assert "a\nb" not in str(caught.value)


def test_a_channel_that_names_nobody_says_so_before_anything_is_sent() -> None:
    assert _config(to=[]).missing() == "nobody is named in to, cc or bcc"
    assert _config(to=[], bcc=["a@example.com"]).missing() is None


def test_the_bodies_of_a_mail_are_what_the_row_says_but_for_control_characters() -> None:
    route = Route(
        "late", channel_email.Options.model_validate({"from": "a@x.y", "to": ["b@x.y"], "text": "{{ row.n }}"})
    )
    made = route.mail(message(view=VIEW, extra={"n": ("text", "a\x00b\x1bc\td\r\ne \N{GRINNING FACE}")}), 0.0)
    assert not isinstance(made, Rejected)
    mail = Mail(sender="", recipients=(), options=(), content=made.content(utf8=False), encrypted=False, login=None)
    assert mail.part("plain").strip() == "a\ufffdb\ufffdc\td\ne \N{GRINNING FACE}"
