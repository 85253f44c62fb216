"""Settings that every channel has."""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, field_validator, model_validator

from tocsin.envelope import CONDITION_VARIABLES
from tocsin.model import Kind
from tocsin.settings import Duration, Settings
from tocsin.templates import Condition, Structure, TemplateError

Trial: TypeAlias = Callable[[Mapping[str, object]], Iterator[TemplateError]]
"""Finds what is wrong with the message that is made of a notification with these variables. The place of an error
begins with the name of an option. No error holds a secret."""


def trial(options: Settings) -> Trial:
    """Return the check of all options that are templates."""
    structures = [
        Structure(value, place=name)
        for name in type(options).model_fields
        if isinstance(value := getattr(options, name), str | list | dict) and _templated(value)
    ]

    def faults(variables: Mapping[str, object]) -> Iterator[TemplateError]:
        for structure in structures:
            try:
                structure.render(variables)
            except TemplateError as error:
                yield error

    return faults


def _templated(value: object) -> bool:
    if isinstance(value, dict | list):
        return any(_templated(item) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def condition(when: str | None) -> str | None:
    """A `when` as it stands in a configuration. Raises ValueError where it is no condition."""
    if when is not None:
        Condition(when, place="", known=CONDITION_VARIABLES)
    return when


class ChannelOptions(Settings):
    """What can be set for a channel and, over that, for each alert that notifies it."""

    on: Annotated[tuple[Kind, ...], Field(min_length=1)] = tuple(Kind)
    """Which notifications are sent: `fired`, `updated`, `resolved`, `repeated`, `event`."""

    when: str | None = None
    """An expression on the row, such as `row.severity == "page"`: only rows for which it holds are told. A row that
    changes so that it begins to hold fires on this channel, one that ceases to hold resolves."""

    interval: Duration = 0.0
    """The first notification goes at once; those that follow within this time are merged into one message, sent at its
    end, which opens the next interval. `0`: each goes on its own."""

    group_by: tuple[str, ...] = ()
    """With `interval`: columns or labels whose values are merged apart from each other. Without, the whole alert is one
    group. A row without one of the columns is sent on its own."""

    @field_validator("when")
    @classmethod
    def _is_a_condition(cls, when: str | None) -> str | None:
        return condition(when)

    @model_validator(mode="after")
    def _groups_are_merged(self) -> "ChannelOptions":
        if self.group_by and not self.interval:
            raise ValueError("group_by says what `interval` merges; give interval too")
        return self


class ChannelConfig(Settings):
    """What the dispatcher must know of every channel."""

    type: str
    """The kind of channel."""

    concurrency: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many requests are under way at once."""

    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """How long one attempt may take."""

    max_attempts: Annotated[int, Field(ge=1)] | None = None
    """After so many attempts a notification becomes a dead letter. Waits that the receiver asked for do not count.
    Without, only `max_age` ends the attempts, so that a receiver may be away for hours."""

    max_age: Annotated[Duration, Field(gt=0)] = 86400.0
    """A notification whose attempt fails after so long becomes a dead letter. One that was not attempted meanwhile, as
    while a channel is paused, is still sent."""

    backoff_initial: Annotated[Duration, Field(gt=0)] = 1.0
    """The wait after the first failed attempt; it doubles from one to the next."""

    backoff_max: Annotated[Duration, Field(gt=0)] = 300.0
    """The longest wait between two attempts."""

    rate_limit: Annotated[float, Field(gt=0)] | None = None
    """At most so many notifications a second; without, as many as the receiver takes."""

    def trial(self, options: Any) -> Trial:
        """Return the check of the messages that these options make."""
        return trial(options)

    @model_validator(mode="after")
    def _backoff_in_order(self) -> "ChannelConfig":
        if self.backoff_max < self.backoff_initial:
            raise ValueError("backoff_max must not be less than backoff_initial")
        return self
