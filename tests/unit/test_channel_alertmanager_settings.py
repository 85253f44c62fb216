"""The settings of an output to Alertmanager: mistakes are reported without secrets."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from support.alertmanager_output import output
from support.channel_ends import SECRET
from tocsin.channels.alertmanager import Config
from tocsin.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"urls": []}, "at least 1 item"),
        ({"urls": ["alertmanager:9093"]}, "write whole addresses"),
        ({"urls": ["http://a/?x=1"]}, "write whole addresses"),
        ({"urls": [f"http://me:{SECRET}@a"]}, "not in the address"),
        ({"urls": ["http://a", "http://a/"]}, "an address is listed twice"),
        ({"username": "me"}, "username and password belong together"),
        ({"password": SECRET}, "username and password belong together"),
        ({"username": "a:b", "password": SECRET}, "must not have a colon"),
        ({"username": "me", "password": SECRET, "token": SECRET}, "not both"),
        ({"tls_key": "x"}, "tls_key needs tls_cert"),
        ({"expiry": "90s"}, "at least twice resend_interval"),
        ({"expiry": "9000y"}, "must be at most a year"),
        ({"resend_interval": "100d"}, "must be at most a year"),
        ({"labels": {"a-b": "x"}}, "pattern"),
        ({"labels": {"a": "{{ nothing }}"}}, "there is no variable 'nothing'"),
        ({"when": "nothing > 1"}, "nothing"),
        ({"backoff_initial": "1m"}, "must not be less than backoff_initial"),
    ],
)
def test_mistake_is_reported_without_the_secret(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as found:
        Config.model_validate({"type": "alertmanager", "urls": ["http://a"], **settings})
    assert why in str(found.value)
    assert SECRET not in str(found.value)


def test_unusable_certificate_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels\.am\.tls_ca: there is no file none\.pem"):
        output("https://a", tls_ca="none.pem")
    (tmp_path / "bad.pem").write_text("x")
    with pytest.raises(ConfigError, match=r"channels\.am: the certificates cannot be used: "):
        output("https://a", tls_ca=str(tmp_path / "bad.pem"))
