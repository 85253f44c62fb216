"""The settings of an output to Alertmanager: mistakes are reported without secrets."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from support.alertmanager_output import output
from support.channel_ends import SECRET
from support.sending import codes
from tocsin.channels.alertmanager import Config
from tocsin.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"urls": []}, "too_short"),
        ({"urls": ["alertmanager:9093"]}, "address"),
        ({"urls": ["http://a/?x=1"]}, "address"),
        ({"urls": [f"http://me:{SECRET}@a"]}, "user_info"),
        ({"urls": ["http://a", "http://a/"]}, "repeated"),
        ({"username": "me"}, "needs"),
        ({"password": SECRET}, "needs"),
        ({"username": "a:b", "password": SECRET}, "colon"),
        ({"username": "me", "password": SECRET, "token": SECRET}, "not_both"),
        ({"tls_key": "x"}, "needs"),
        ({"expiry": "90s"}, "too_short"),
        ({"expiry": "9000y"}, "too_long"),
        ({"resend_interval": "100d"}, "too_long"),
        ({"labels": {"a-b": "x"}}, "string_pattern_mismatch"),
        ({"labels": {"a": "{{ nothing }}"}}, "unknown_variable"),
        ({"when": "nothing > 1"}, "unknown_variable"),
        ({"backoff_initial": "1m"}, "too_short"),
    ],
)
def test_mistake_is_reported_without_the_secret(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError) as found:
        Config.model_validate({"type": "alertmanager", "urls": ["http://a"], **settings})
    assert code in codes(found.value)
    assert SECRET not in str(found.value)


def test_unusable_certificate_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.am\.tls_ca: there is no file none\.pem"):
        output("https://a", tls_ca="none.pem")
    (tmp_path / "bad.pem").write_text("x")
    with pytest.raises(ConfigError, match=r"channels\.am: the certificates cannot be used: "):
        output("https://a", tls_ca=str(tmp_path / "bad.pem"))
