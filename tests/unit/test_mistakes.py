"""Mistakes in the settings of channels and sources (`mistakes.yaml`) are reported without their secrets."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from support.sending import codes
from tocsin.registry import channel_models, source_model

MISTAKES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text("utf-8"))


def mistakes(family: str) -> list[Any]:
    """The kind, what is expected, and the valid and the other settings of each."""
    of_kinds = MISTAKES[family].items()
    return [(kind, expected, of["valid"], settings) for kind, of in of_kinds for expected, settings in of["mistakes"]]


def refused(model: type[BaseModel], valid: dict[str, Any], settings: dict[str, Any]) -> ValidationError:
    """The error of a model that accepts the valid settings; it shows no secret."""
    model.model_validate(valid)
    with pytest.raises(ValidationError) as caught:
        model.model_validate({name: value for name, value in {**valid, **settings}.items() if value is not None})
    assert "S3CR3T" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("kind", "code", "valid", "settings"), mistakes("channels"))
def test_mistake_in_channel_has_its_code(kind: str, code: str, valid: dict[str, Any], settings: dict[str, Any]) -> None:
    assert code in codes(refused(channel_models(kind)[0], {"type": kind, **valid}, settings))


@pytest.mark.parametrize(("kind", "words", "valid", "settings"), mistakes("sources"))
def test_mistake_in_source_is_explained(kind: str, words: str, valid: dict[str, Any], settings: dict[str, Any]) -> None:
    assert words in str(refused(source_model(kind), valid, settings))
