"""The recipients of the email channel, against a mail server on this machine, and its configuration."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from support.messages import message
from support.sending import Build, sent
from support.smtp import MailServer
from tocsin.channels import email as channel_email
from tocsin.channels.base import Delivered, Rejected
from tocsin.channels.email.addresses import Mailbox, mailbox
from tocsin.envelope import merged
from tocsin.errors import Reason


def person(*people: str) -> dict[str, tuple[str, str | None]]:
    """Columns of a row that name people."""
    return {"owner": ("text", people[0] if people else None), "team": ("texts", "{" + ",".join(people) + "}")}


# Recipients.


async def test_recipients_of_configuration_and_row_are_deduplicated(build: Build, server: MailServer) -> None:
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
async def test_column_holds_one_address_or_many(
    build: Build, server: MailServer, column: str, value: str, expected: list[str]
) -> None:
    channel = build(to=[{"column": "who"}])
    assert await sent(channel, message(extra={"who": (column, value)})) == Delivered()
    assert list(server.mails[0].recipients) == expected


@pytest.mark.parametrize("value", [None, "", " , "])
async def test_row_without_recipient_becomes_a_dead_letter(build: Build, server: MailServer, value: str | None) -> None:
    channel = build(to=[{"column": "who"}, "{{ row.who }}"])
    result = await sent(channel, message(extra={"who": ("text", value)}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.NO_RECIPIENTS
    assert not server.mails


async def test_missing_column_of_the_row_is_named(build: Build) -> None:
    result = await sent(build(to=[{"column": "ownr"}]))
    assert result == Rejected(Reason.NO_RECIPIENTS, "late: to: the row has no column 'ownr'")


async def test_invalid_address_is_noted_and_others_get_mail(build: Build, server: MailServer) -> None:
    result = await sent(build(to=["ann@example.com", {"column": "team"}]), message(extra=person("ann")))
    assert result == Delivered("refused: late: to: 'ann' is not a valid mail address")
    assert server.mails[0].recipients == ("ann@example.com",)


async def test_row_value_cannot_add_recipients_to_template(build: Build, server: MailServer) -> None:
    channel = build(to=["{{ row.owner }}@example.com"])
    result = await sent(channel, message(extra={"owner": ("text", "eve@evil.example, bob")}))
    assert isinstance(result, Rejected)
    assert result.reason is Reason.NO_RECIPIENTS
    assert not server.mails


async def test_options_of_alert_override_those_of_channel(build: Build, server: MailServer) -> None:
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


async def test_reply_to_keeps_addresses_that_are_recipients(build: Build, server: MailServer) -> None:
    await sent(build(reply_to=["ann@example.com", "support@example.com"]))
    assert server.mails[0].parsed["Reply-To"] == "ann@example.com, support@example.com"


async def test_mail_with_only_bcc_hides_its_recipients(build: Build, server: MailServer) -> None:
    await sent(build(to=[], bcc=["ann@example.com"]))
    assert server.mails[0].recipients == ("ann@example.com",)
    assert server.mails[0].parsed["To"] == "undisclosed-recipients:;"


async def test_digest_goes_to_recipients_of_all_its_notifications(build: Build, server: MailServer) -> None:
    envelopes = [message(key=str(n), extra=person(who)).envelope for n, who in enumerate(["bob", "cy", "bob"])]
    digest = replace(message(), envelope=merged(envelopes))
    await sent(build(to=["{{ row.owner }}@example.com"]), digest)
    assert server.mails[0].recipients == ("bob@example.com", "cy@example.com")


async def test_non_ascii_addresses_are_sent_with_smtputf8(build: Build, server: MailServer) -> None:
    assert await sent(build(to=["zo\u00eb@example.com", "ann@example.com"])) == Delivered()
    [mail] = server.mails
    assert mail.recipients == ("zo\u00eb@example.com", "ann@example.com")
    assert "SMTPUTF8" in mail.options
    assert "zo\u00eb@example.com" in mail.content.decode()


async def test_server_without_smtputf8_gets_ascii_recipients_only() -> None:
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


# Addresses.


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
        ("ann@example.com", "ann@example.com", ""),
        (" Ann Lee <ann@example.com> ", "ann@example.com", "Ann Lee"),
        ('"Lee, Ann" <ann@example.com>', "ann@example.com", "Lee, Ann"),
        ("<ann@localhost>", "ann@localhost", ""),
        ("zo\u00eb@b\u00fccher.example", "zo\u00eb@b\u00fccher.example", ""),
    ],
)
def test_address_is_parsed_with_and_without_name(text: str, spec: str, name: str) -> None:
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
def test_invalid_mail_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid mail address"):
        mailbox(text)


# The configuration.


def _config(**settings: Any) -> Any:
    base = {"type": "email", "host": "mail.test", "from": "a@example.com", "to": ["b@example.com"]}
    return channel_email.Config.model_validate({**base, **settings})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"from": "ann"}, "'ann' is not a valid mail address"),
        ({"to": ["ann"]}, "'ann' is not a valid mail address"),
        ({"to": ["{{ rw.owner }}"]}, "there is no variable 'rw'"),
        ({"html": "{% if %}"}, "line 1: "),
        ({"html": True}, "html"),
        ({"username": "me"}, "set username and password together"),
        ({"security": "ssl"}, "'none', 'starttls' or 'tls'"),
        ({"security": "none", "tls_verify": False}, "none has no certificates"),
        ({"hello": "a b"}, "hello"),
        ({"port": 0}, "port"),
        ({"password": "a\nb", "username": "me"}, "a password is one line"),
    ],
)
def test_invalid_setting_is_refused_and_named(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _config(**settings)
    assert complaint in str(caught.value)
    assert "a\nb" not in str(caught.value)


def test_channel_without_recipients_reports_missing_settings() -> None:
    assert _config(to=[]).missing() == "set to, cc or bcc"
    assert _config(to=[], bcc=["a@example.com"]).missing() is None
