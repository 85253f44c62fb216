"""The pages about RabbitMQ: their configurations can be used."""

import re
from pathlib import Path

import pytest

from tocsin.config import load

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("sources/rabbitmq.md", "migrate-from-alertman.md")
ENVIRONMENT = {
    "TRANSACTION_FRAUD_EMAIL_ALERT_FROM": "fraud@example.com",
    "TRANSACTION_FRAUD_EMAIL_ALERT_TO": "ops@example.com",
    "SMTP_HOSTNAME": "mail.example.com",
    "SMTP_PORT": "465",
    "SMTP_USERNAME": "u",
    "SMTP_PASSWORD": "p",
    "SMS_URL": "twilio://sid:token@15551230000",
}


def blocks() -> list[object]:
    return [
        pytest.param(text, id=f"{page}-{number}")
        for page in PAGES
        for number, text in enumerate(
            re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        )
    ]


def test_the_pages_have_examples() -> None:
    assert len(blocks()) == 3


@pytest.mark.parametrize("text", blocks())
def test_a_configuration_on_the_page_can_be_used(text: str, tmp_path: Path) -> None:
    (tmp_path / "rabbitmq").write_text("secret\n")
    file = tmp_path / "tocsin.yaml"
    file.write_text(text.replace("/run/secrets", str(tmp_path)), encoding="utf-8")
    assert load(file, ENVIRONMENT).warnings == ()
