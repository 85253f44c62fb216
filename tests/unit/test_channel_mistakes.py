"""Mistakes in the settings of channels (`channel_mistakes.yaml`) are reported without their secrets."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from support.sending import codes
from tocsin.registry import channel_models

MISTAKES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("channel_mistakes.yaml").read_text("utf-8"))


@pytest.mark.parametrize(
    ("kind", "code", "settings"), [(kind, *mistake) for kind, of in MISTAKES.items() for mistake in of["mistakes"]]
)
def test_mistake_is_reported_without_its_secret(kind: str, code: str, settings: dict[str, Any]) -> None:
    model = channel_models(kind)[0]
    valid = {"type": kind, **MISTAKES[kind]["valid"]}
    model.model_validate(valid)
    with pytest.raises(ValidationError) as caught:
        model.model_validate({**valid, **settings})
    assert code in codes(caught.value)
    assert "S3CR3T" not in str(caught.value)
